"""Where commands print for people: a terminal as wide as it is, and a file or a pipe as wide as sentences need."""

from __future__ import annotations

import sys

from rich.console import Console

# Nobody looks at a file through a window: a sentence or a link that is broken in two cannot be found or copied.
_FILE_WIDTH = 240


def terminal() -> Console:
    """Standard output."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _FILE_WIDTH)
