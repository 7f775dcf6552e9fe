"""`python -m server`: the gateway as a process. `relay serve` runs the same."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from registry_hooks import events, settings
from registry_hooks.errors import RelayError, UserError
from server.gateway.serving import serve


def main() -> int:
    """Serve until SIGINT or SIGTERM; exit code 2 for what the user can mend, 1 for the rest."""
    parser = argparse.ArgumentParser(prog="python -m server", description="Serve what the registry's alias names.")
    parser.add_argument("--config", type=Path, help="settings file (YAML)")
    arguments = parser.parse_args()
    try:
        loaded = settings.load(arguments.config)
        events.configure()
        return serve(loaded)
    except RelayError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the command line is the door here
        return 2 if isinstance(error, UserError) else 1


if __name__ == "__main__":
    sys.exit(main())
