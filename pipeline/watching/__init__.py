"""Publishing without hands: checkpoints are staged as soon as they are saved, and published in the background."""
