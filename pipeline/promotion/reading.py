"""`relay history` and `relay why N`: decisions in words, read from the registry."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.promotion import waiting
from pipeline.promotion.acting import Hands
from pipeline.promotion.ledger import Entry
from pipeline.promotion.refusing import declined, refusals
from pipeline.promotion.standing import is_judged
from pipeline.terminal import terminal
from registry_hooks import contract
from registry_hooks.records import ModelVersion

_LINK = re.compile(r"\[([^\]]+)\]\((https?://[^\s)]+)\)")
# Entries of a version that `why` tells.
_NUM_TOLD = 5


def entries_of(hands: Hands, limit: int) -> list[Entry]:
    """The newest decisions, newest first.

    Raises:
        UnknownModelError: There is no such registered model.
    """
    hands.registry.model_tags(hands.name)  # of a model that is not there nothing was decided, which is another answer
    return hands.logbook.newest(limit)


def history(hands: Hands, *, limit: int) -> RenderableType:
    """Who moved the alias, when, to what and why; and what was decided without a move."""
    title = escape(f"{hands.name}@{hands.alias}")
    table = Table("when (UTC)", "what", "from", "to", "by", "why", title=title, title_justify="left")
    for entry in entries_of(hands, limit):
        what = f"{entry.kind} (void)" if entry.is_void else f"{entry.kind} (open)" if entry.is_open else entry.kind
        when = f"{entry.at:%Y-%m-%d %H:%M:%S}" if entry.at else "-"
        moved = (_shown(entry.previous), _shown(entry.target))
        table.add_row(when, what, *moved, escape(entry.by), escape(entry.because))
    return table if table.row_count else "nothing has been decided yet"


def why(hands: Hands, number: int) -> RenderableType:
    """Why a version is, or is not, in production.

    Raises:
        UnknownModelError: There is no such version.
    """
    version = hands.registry.get_version(hands.name, number)
    aliases = sorted(alias for alias, target in hands.registry.aliases(hands.name).items() if target == number)
    state = version.tags.get(contract.TAG_STATE, "not looked at yet")
    step = "unknown" if version.step is None else str(version.step)
    named = f", {', '.join(aliases)}" if aliases else ""
    parts: list[RenderableType] = [f"[bold]{escape(version.label)}[/bold], step {step}, {state}{named}"]
    if version.description:
        parts.append(Markdown(version.description))
        parts += _links(version.description)  # one that is only a word, or broken in two, cannot be copied
    elif reason := version.tags.get(contract.TAG_REASON):
        parts.append(escape(reason))
    if waits := _why_it_waits(hands, version, aliases):
        parts.append(escape(f"It waits: {waits}"))
    parts += [f"server {escape(server)} refused it: {escape(text)}" for server, text in refusals(version).items()]
    parts += [f"server {escape(server)} declines it: {escape(text)}" for server, text in declined(version).items()]
    told = hands.logbook.about(number, _NUM_TOLD)
    parts += [f"{entry.at:%Y-%m-%d %H:%M} {entry.kind}: {escape(entry.because)}" for entry in told if entry.at]
    return Group(*parts)


def _links(markdown: str) -> list[RenderableType]:
    return [Text(f"{word}: {url}", no_wrap=True, overflow="ignore") for word, url in _LINK.findall(markdown)]


def _why_it_waits(hands: Hands, version: ModelVersion, aliases: Sequence[str]) -> str | None:
    """Why it has no verdict yet; None where it has one, or is in production."""
    if is_judged(version, hands.alias) or hands.alias in aliases:
        return None
    return waiting.why(version, _facts(hands))


def _facts(hands: Hands) -> waiting.Facts:
    tags, aliases, move = hands.registry.model_tags(hands.name), hands.registry.aliases(hands.name), None
    if hands.alias not in aliases:
        move = hands.logbook.last_move()
    is_removed = move is not None and move.target is None
    return waiting.facts_for_people(tags, aliases, hands.alias, is_removed=is_removed, now=datetime.now(UTC))


def history_json(hands: Hands, *, limit: int) -> str:
    """The newest decisions for programs: one JSON object a line, newest first."""
    return "\n".join(json.dumps(_document(entry)) for entry in entries_of(hands, limit))


def why_json(hands: Hands, number: int) -> str:
    """What is on record of a version for programs: one JSON object.

    Raises:
        UnknownModelError: There is no such version.
    """
    version = hands.registry.get_version(hands.name, number)
    aliases = sorted(alias for alias, target in hands.registry.aliases(hands.name).items() if target == number)
    document = {
        "name": version.name,
        "version": number,
        "step": version.step,
        "aliases": aliases,
        "state": version.tags.get(contract.TAG_STATE),
        "reason": version.tags.get(contract.TAG_REASON),
        "waits": _why_it_waits(hands, version, aliases),
        "description": version.description,
        "entries": [_document(entry) for entry in hands.logbook.about(number, _NUM_TOLD)],
    }
    return json.dumps(document)


def _document(entry: Entry) -> dict[str, object]:
    return {
        "at": entry.at.isoformat() if entry.at else None,
        "kind": entry.kind,
        "alias": entry.alias,
        "from": entry.previous,
        "to": entry.target,
        "by": entry.by,
        "because": entry.because,
        "is_open": entry.is_open,
        "is_void": entry.is_void,
        "run_id": entry.run_id,
    }


def show(what: RenderableType) -> None:
    """Print it."""
    terminal().print(what, crop=False)  # a link is longer than a terminal is wide


def _shown(number: int | None) -> str:
    return "-" if number is None else str(number)
