"""Scores a version on a fixed test set, by the engine that would serve it, and keeps the scores in the registry."""
