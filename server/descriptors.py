"""How many files and connections this process may have open at once."""

from __future__ import annotations

import resource

# As much as a gateway with thousands of streams needs; where the system allows a billion, some programs below us count.
_ENOUGH = 65_536


def raise_limit() -> int:
    """Raise the soft limit, which is 1024 by custom, as far as the hard one allows; the limit from now on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):  # a system with a lower limit of its own
            return soft
        return wanted
    return soft
