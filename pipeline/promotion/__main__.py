"""`python -m pipeline.promotion`: the promoter as a child of `relay up`."""

from __future__ import annotations

import sys

from pipeline.promotion import scheduling
from registry_hooks import events, settings
from registry_hooks.errors import RelayError, UserError


def main() -> int:
    """Promote until SIGTERM; exit code 2 for what the user can mend."""
    events.configure()
    try:
        return scheduling.run(settings.load(), say=lambda line: events.logger().info("promoter.said", line=line))
    except RelayError as error:
        events.logger().error("promoter.cannot_start", because=str(error))
        return 2 if isinstance(error, UserError) else 1


if __name__ == "__main__":
    sys.exit(main())
