"""`relay status`: where checkpoints are on their way, who holds them up, and what each server really serves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from pipeline.promoter_view import PromoterView, promoter_view
from pipeline.promotion import ledger
from pipeline.promotion import waiting as why_it_waits
from pipeline.promotion.marks import Mark, freeze_of, hold_of
from pipeline.promotion.standing import is_judged
from pipeline.server_view import ServerView, server_views
from pipeline.watching.entries import PAPER_FILE
from registry_hooks import contract
from registry_hooks.errors import DeletedExperimentError
from registry_hooks.ports import ModelOverview
from registry_hooks.records import ModelVersion, RunRecord
from registry_hooks.settings import Settings

NUM_VERSIONS_SEEN = 25
# Among so many decisions the last move is looked for, where the alias is gone.
_NUM_DECISIONS_SEEN = 100
_NUM_REASONS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LastSeen:
    """The newest version: the last checkpoint that arrived in the registry."""

    version: int
    step: int | None
    saved_at: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All that `relay status` prints.

    Attributes:
        num_pending: Checkpoints on this box that are still to be uploaded; None when there is no queue here.
        newest: None when the registry has no version yet.
        waiting: Those of the newest 25 versions that nobody has judged yet, newest first.
        why_waiting: Why each of them waits.
        hold: Who keeps automation from moving the alias, and why.
        freeze: The same for promotions alone.
        promoter: Whether it lives, and why it rests.
        notes: What is odd in the registry: a stage in place of the alias, an experiment that somebody deleted.
    """

    name: str
    alias: str
    aliased_version: int | None
    look_alikes: list[str]
    num_pending: int | None
    newest: LastSeen | None
    waiting: list[int]
    why_waiting: dict[int, str]
    hold: Mark | None
    freeze: Mark | None
    promoter: PromoterView
    notes: list[str]
    last_decision: RunRecord | None
    servers: list[ServerView]
    last_deployment: RunRecord | None


def overview(
    registry: ModelOverview, settings: Settings, *, now: datetime, pending_dir: Path | None = None
) -> Overview:
    """Read the registry and the queue of this box, and ask each server that has written into the registry.

    Raises:
        UnknownModelError: There is no such registered model.
        RegistryUnavailableError: The registry does not answer.
    """
    name, alias = settings.registry.name, settings.registry.alias
    aliases, tags = registry.aliases(name), registry.model_tags(name)
    newest = registry.newest_versions(name, NUM_VERSIONS_SEEN)
    last_decision, *trouble = _last(registry, contract.decisions_experiment(name))
    last_deployment, *more_trouble = _last(registry, contract.deployments_experiment(name))
    return Overview(
        name=name,
        alias=alias,
        aliased_version=aliases.get(alias),
        look_alikes=contract.look_alikes(aliases, alias),
        num_pending=None if pending_dir is None else count_pending(pending_dir),
        newest=_last_seen(newest[0]) if newest else None,
        waiting=waiting_of(newest, alias),
        why_waiting=_why_waiting(registry, settings, newest, tags, aliases, now),
        hold=hold_of(tags, alias),
        freeze=freeze_of(tags, alias),
        promoter=promoter_view(tags.get(contract.TAG_PROMOTER), now=now),
        notes=[*_staged(newest, alias, aliases.get(alias)), *map(str, (*trouble, *more_trouble))],
        last_decision=last_decision,
        servers=server_views(tags, aliased=aliases.get(alias), now=now),
        last_deployment=last_deployment,
    )


def count_pending(folder: Path) -> int:
    """How many checkpoints wait in the upload queue `folder`; 0 when it is not there."""
    papers = folder.glob(f"*/{PAPER_FILE}")
    return sum(not paper.parent.name.startswith(".") for paper in papers)  # hidden: not yet, or no longer, an entry


def waiting_of(versions: Iterable[ModelVersion], alias: str) -> list[int]:
    """The versions on which there is no verdict yet, also those that were admitted and wait behind a hold."""
    return [version.version for version in versions if not is_judged(version, alias)]


def _why_waiting(
    registry: ModelOverview,
    settings: Settings,
    versions: Sequence[ModelVersion],
    tags: Mapping[str, str],
    aliases: Mapping[str, int],
    now: datetime,
) -> dict[int, str]:
    name, alias, is_removed = settings.registry.name, settings.registry.alias, False
    runs: Sequence[RunRecord] = ()
    if alias not in aliases:
        with contextlib.suppress(DeletedExperimentError):  # the notes say so
            runs = registry.latest_runs(contract.decisions_experiment(name), _NUM_DECISIONS_SEEN)
        entries = map(ledger.from_run, runs)
        move = next((entry for entry in entries if entry.is_move and entry.alias == alias), None)
        is_removed = move is not None and move.target is None
    facts = why_it_waits.facts_for_people(tags, aliases, alias, is_removed=is_removed, now=now)
    return {one.version: why_it_waits.why(one, facts) for one in versions if not is_judged(one, alias)}


def show(view: Overview, console: Console) -> None:
    """Print it for people."""
    console.print(rendered(view), highlight=False)


def rendered(view: Overview) -> RenderableType:
    """What `show` prints, for those who print it again and again."""
    target = f"version {view.aliased_version}" if view.aliased_version else "nothing: the alias is not set"
    lines = [f"{escape(view.name)}@{view.alias} names [bold]{target}[/bold]"]
    for other in view.look_alikes:
        note = f"note: there is also an alias {other!r}; servers follow {view.alias!r} only"
        lines.append(f"[yellow]{escape(note)}[/yellow]")
    lines += [f"[yellow]note: {escape(note)}[/yellow]" for note in view.notes]
    lines += [f"[yellow]{line}[/yellow]" for line in (_mark("held", view.hold), _mark("frozen", view.freeze)) if line]
    lines += [_promoter(view.promoter), *(f"[yellow]alert: {escape(alert)}[/yellow]" for alert in view.promoter.alerts)]
    lines += [_arrivals(view), *([_queue(view.num_pending)] if view.num_pending is not None else [])]
    lines += _reasons(view)
    if view.last_decision is not None:
        because = view.last_decision.tags.get(contract.TAG_BECAUSE, "")
        lines.append(f"last decision: {escape(_event(view.last_decision))}{escape(f': {because}' if because else '')}")
    no_servers = "no server has reported yet: start one with `relay serve`"
    after = [f"last deployment: {escape(_deployment(view.last_deployment))}"] if view.last_deployment else []
    return Group(*lines, _table(view.servers) if view.servers else no_servers, *after)


def _table(servers: Sequence[ServerView]) -> Table:
    table = Table("server", "serves", "step", "behind", "seen", "why")
    for server in servers:
        serves = str(server.version) if server.version is not None else "nothing"
        silence = "stopped; " if server.is_stopped else "silent; "
        seen = "answers now" if server.is_live else f"{silence}wrote {server.seen_s_ago:.0f} s ago"
        step = "-" if server.step is None else str(server.step)
        table.add_row(escape(server.name), serves, step, _behind(server), seen, escape(server.reason))
    return table


def _behind(server: ServerView) -> str:
    versions = f", {server.num_behind} versions" if server.num_behind and server.num_behind > 1 else ""
    if server.behind_s is None:
        return f"unknown{versions}"
    return f"{server.behind_s:.0f} s{versions}" if server.behind_s else "no"


def _arrivals(view: Overview) -> str:
    if view.newest is None:
        return "no version yet: publish a checkpoint with `relay publish`"
    newest = view.newest
    step = "" if newest.step is None else f", step {newest.step}"
    saved = f", saved {newest.saved_at}" if newest.saved_at else ""
    more = f" of the newest {NUM_VERSIONS_SEEN}" if len(view.waiting) == NUM_VERSIONS_SEEN else ""
    waiting = f"{len(view.waiting)}{more} (" + ", ".join(str(number) for number in view.waiting[:8])
    waiting += ", …)" if len(view.waiting) > 8 else ")"
    return escape(
        f"newest: version {newest.version}{step}{saved}, {newest.state or 'not judged yet'}; "
        f"waiting to be judged: {waiting if view.waiting else 'none'}"
    )


def _reasons(view: Overview) -> list[str]:
    """Why they wait: each reason once, with the versions that it holds for."""
    by_reason: dict[str, list[str]] = {}
    for number, reason in view.why_waiting.items():
        by_reason.setdefault(reason, []).append(str(number))
    shown = list(by_reason.items())[:_NUM_REASONS]
    return [escape(f"  {', '.join(numbers[:8])}: {reason}") for reason, numbers in shown]


def _queue(num_pending: int) -> str:
    return f"waiting to be uploaded from this box: {num_pending or 'none'}"


def _mark(word: str, mark: Mark | None) -> str:
    if mark is None:
        return ""
    who = f" by {mark.who}" if mark.who else ""
    since = f" since {mark.since}" if mark.since else ""
    return escape(f"{word}{who}{since}{f': {mark.why}' if mark.why else ''}")


def _deployment(run: RunRecord) -> str:
    total_s = sum(value for key, value in run.metrics.items() if key.startswith("seconds/"))
    when = f"{run.ended_at:%Y-%m-%d %H:%M:%S} UTC" if run.ended_at else "just now"
    return f"{run.run_name}, {total_s:.1f} s, {when}"


def _event(run: RunRecord) -> str:
    when = run.ended_at or run.started_at
    return f"{run.run_name}, {when:%Y-%m-%d %H:%M:%S} UTC" if when else run.run_name


def _last_seen(version: ModelVersion) -> LastSeen:
    saved_at, state = (version.tags.get(key, "") for key in (contract.TAG_SAVED_AT, contract.TAG_STATE))
    return LastSeen(version=version.version, step=version.step, saved_at=saved_at, state=state)


def _last(registry: ModelOverview, experiment: str) -> tuple[RunRecord | None, *tuple[str, ...]]:
    """The newest run of an experiment; behind it what is in the way of knowing it."""
    try:
        runs = registry.latest_runs(experiment, 1)
    except DeletedExperimentError as error:
        return (None, str(error))
    return (runs[0] if runs else None,)


def _staged(versions: Sequence[ModelVersion], alias: str, aliased: int | None) -> list[str]:
    """Versions in a stage of the alias's name: what people did before there were aliases, and no server follows."""
    staged = [one.version for one in versions if one.stage.casefold() == alias.casefold() and one.version != aliased]
    return [
        f"version {number} is in the stage {alias!r}, which is no alias: servers follow the alias {alias!r} only; "
        f"`relay promote {number}` sets it"
        for number in staged[:3]
    ]


def _promoter(view: PromoterView) -> str:
    sentence = escape(view.sentence)
    return sentence if view.lives and view.state != "cannot" else f"[yellow]{sentence}[/yellow]"
