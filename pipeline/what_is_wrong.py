"""What is wrong by a status, for monitors: `relay status --check`. Pure."""

from __future__ import annotations

from pipeline.server_view import ServerView
from pipeline.status import Overview

EXIT_CODE = 3


def what_is_wrong(view: Overview, *, max_behind_s: float, silent_after_s: float) -> list[str]:
    """What a person should look at, one sentence each; empty when all is well. A hold is no fault.

    Args:
        max_behind_s: How long a server may lag behind the alias.
        silent_after_s: How old the last word of a server may be that does not answer.
    """
    found = [] if view.aliased_version else [f"the alias {view.alias} names no version"]
    if not view.promoter.lives or view.promoter.state == "cannot":
        found.append(view.promoter.sentence)
    found += [*view.promoter.alerts, *view.notes]
    for server in view.servers:
        found += _of_server(server, max_behind_s=max_behind_s, silent_after_s=silent_after_s)
    return list(dict.fromkeys(found))


def _of_server(server: ServerView, *, max_behind_s: float, silent_after_s: float) -> list[str]:
    if server.is_stopped:
        return []
    if not server.is_live and server.seen_s_ago > silent_after_s:
        return [f"server {server.name} does not answer, and wrote {server.seen_s_ago:.0f} s ago"]
    if server.behind_s is not None and server.behind_s > max_behind_s:
        return [f"server {server.name} is behind for {server.behind_s:.0f} s: {server.reason or 'no reason given'}"]
    return []
