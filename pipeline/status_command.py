"""`relay status`: once, or every two seconds until Ctrl-C; for people, or as JSON for programs."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape

from pipeline.connecting import connected
from pipeline.status import Overview, overview, rendered, show
from pipeline.terminal import terminal
from pipeline.what_is_wrong import EXIT_CODE, what_is_wrong
from registry_hooks.errors import RelayError
from registry_hooks.ports import ModelOverview
from registry_hooks.settings import Settings

WATCH_S = 2.0
# How long a server may lag behind the alias before `--check` calls that wrong: more than a fetch of some GB takes.
MAX_BEHIND_S = 600.0

Look = Callable[[], Overview]


def run(
    *,
    settings: Settings,
    as_json: bool = False,
    watch: bool = False,
    check: bool = False,
    pending_dir: Path | None = None,
) -> int:
    """Print the status of the registry that the settings name.

    Args:
        as_json: One JSON object; with `watch` one a line.
        watch: Again and again until Ctrl-C, which is a good end.
        check: For monitors: the exit code is 3 when something is wrong, and what is wrong is said.
        pending_dir: The upload queue of this box, if it has one.

    Raises:
        UnknownModelError: There is no such registered model; while watching it is shown instead.
        RegistryUnavailableError: The registry does not answer; while watching it is shown instead.
    """
    with connected(settings) as registry:
        return print_status(registry, settings, as_json=as_json, watch=watch, check=check, pending_dir=pending_dir)


def print_status(
    registry: ModelOverview,
    settings: Settings,
    *,
    as_json: bool = False,
    watch: bool = False,
    check: bool = False,
    pending_dir: Path | None = None,
) -> int:
    """The same for a registry that is at hand."""
    console = terminal()

    def look() -> Overview:
        return overview(registry, settings, now=datetime.now(UTC), pending_dir=pending_dir)

    if not watch:
        view = look()
        _print_json(view, console) if as_json else show(view, console)
        return _check(view, settings) if check else 0
    with contextlib.suppress(KeyboardInterrupt):
        _follow_as_json(look, console) if as_json else _follow(look, console)
    return 0


def _check(view: Overview, settings: Settings) -> int:
    wrong = what_is_wrong(view, max_behind_s=MAX_BEHIND_S, silent_after_s=settings.promoter.silent_after_s)
    for sentence in wrong:
        print(f"wrong: {sentence}", file=sys.stderr)  # noqa: T201 - the command line is the door for messages
    return EXIT_CODE if wrong else 0


def as_document(view: Overview) -> dict[str, object]:
    """The overview as JSON knows it: times in ISO 8601."""
    document: dict[str, object] = json.loads(json.dumps(asdict(view), default=_as_text))
    return document


def _follow(look: Look, console: Console) -> None:
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(_seen(look), refresh=True)
            time.sleep(WATCH_S)


def _follow_as_json(look: Look, console: Console) -> None:
    while True:
        try:
            _print_json(look(), console, indent=None)
        except RelayError as error:
            console.out(json.dumps({"error": str(error)}), highlight=False)
        time.sleep(WATCH_S)


def _seen(look: Look) -> RenderableType:
    """The status now; an outage is part of it, and watching goes on."""
    footer = f"[dim]{datetime.now(UTC):%H:%M:%S} UTC, every {WATCH_S:g} s; Ctrl-C ends[/dim]"
    try:
        return Group(rendered(look()), footer)
    except RelayError as error:
        return Group(f"[red]{escape(str(error))}[/red]", footer)


def _print_json(view: Overview, console: Console, indent: int | None = 2) -> None:
    console.out(json.dumps(as_document(view), indent=indent), highlight=False)


def _as_text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
