"""`python -m server.engine DIR …` for people, `python -m server.engine --supervised` for a launcher."""

from __future__ import annotations

import os
import sys


def main(arguments: list[str]) -> int:
    """Run the engine; the exit code. Imports late: a supervised engine watches its parent before anything heavy."""
    if "--supervised" in arguments:
        from server.engine.supervised import main as run
    else:
        from server.engine.command import main as run
    return run(arguments)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Python takes seconds to take torch apart, and the engine's thread may be in the middle of a step.
    os._exit(code)
