"""The promotion rule: which version deserves the alias, and why the others do not. Pure; no registry, no engine."""
