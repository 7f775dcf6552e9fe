"""Publishing without a progress bar."""

from __future__ import annotations


class Silence:
    """A benchmark draws no progress bar."""

    def begin(self, stage: str, total_bytes: int) -> None:
        """Nothing."""

    def advance(self, stage: str, num_bytes: int) -> None:
        """Nothing."""

    def end(self, stage: str, seconds: float) -> None:
        """Nothing."""
