"""What a person takes back: a verdict, a quarantine, the word of a server that is gone for good; all on record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from pipeline.promotion import ledger
from pipeline.promotion.acting import Hands
from pipeline.promotion.ledger import Entry
from pipeline.promotion.moves import this_person
from registry_hooks import contract
from registry_hooks.errors import UserError
from registry_hooks.records import ModelVersion

# Servers that are forgotten by themselves at one time.
_MAX_FORGOTTEN = 10


def rejudge(hands: Hands, numbers: Sequence[int], *, why: str, now: datetime) -> str:
    """Let the promoter look at versions anew, as if they had just come; what was done, as a sentence.

    Raises:
        UnknownModelError: There is no such version; nothing was changed.
        UserError: One of them is in production or quarantined; nothing was changed.
    """
    versions = [hands.registry.get_version(hands.name, number) for number in numbers]
    in_production = hands.registry.aliases(hands.name).get(hands.alias)
    for version in versions:
        if version.version == in_production:
            raise UserError(
                f"version {version.version} is what {hands.alias} names: others are compared with it, and nothing was "
                "changed"
            )
        if _is_quarantined(version):
            raise UserError(
                f"version {version.version} is quarantined, and nothing was changed: `relay unquarantine "
                f"{version.version}` gives it another chance"
            )
    hands.logbook.newest(1)  # what cannot be written down is not begun
    for version in versions:
        _judge_again(hands, version, ledger.REJUDGE, why, now)
    return f"the promoter judges {_listed(numbers)} again in its next pass"


def unquarantine(hands: Hands, number: int, *, why: str, now: datetime) -> str:
    """Lift the quarantine of a version and of all with the same files, and forget which servers refused them.

    Raises:
        UnknownModelError: There is no such version.
        UserError: It is not quarantined.
    """
    version = hands.registry.get_version(hands.name, number)
    twins = (
        hands.book.versions_tagged(hands.name, contract.TAG_MANIFEST, version.digest) if version.digest else [version]
    )
    barred = [twin for twin in twins if _is_quarantined(twin)]
    if not barred:
        raise UserError(f"version {number} is not quarantined, and nothing was changed")
    hands.logbook.newest(1)  # what cannot be written down is not begun
    for twin in barred:
        for key in [key for key in twin.tags if key.startswith(contract.TAG_REFUSED_PREFIX)]:
            hands.registry.set_version_tag(hands.name, twin.version, key, None)
        _judge_again(hands, twin, ledger.UNQUARANTINE, why, now)
    return f"{_listed([twin.version for twin in barred])} may serve again, and the promoter judges it in its next pass"


def forget(hands: Hands, server: str, *, why: str, now: datetime, by: str = "") -> str:
    """Forget a server that is gone for good, and its refusals: a server that nobody knows would be heard again.

    One that lives is back with its next heartbeat.

    Raises:
        UserError: No such server has written into the registry.
    """
    tags = hands.registry.model_tags(hands.name)
    if contract.server_tag(server) not in tags:
        known = ", ".join(sorted(_servers(tags))) or "none"
        raise UserError(f"no server {server!r} has written into the registry, and nothing was changed; known: {known}")
    hands.logbook.newest(1)  # what cannot be written down is not begun
    refused = contract.refused_tag(server)
    for version in hands.book.versions_after(hands.name, 0):
        if refused in version.tags:
            hands.registry.set_version_tag(hands.name, version.version, refused, None)
    hands.registry.set_model_tag(hands.name, contract.server_tag(server), None)
    because = f"server {server}: {why}"
    hands.logbook.write(Entry(kind=ledger.FORGET, because=because, by=by or this_person(), at=now))
    return f"server {server} is forgotten"


def forget_gone(hands: Hands, *, after: timedelta, now: datetime) -> list[str]:
    """Forget the servers whose last word is older than `after`, the longest silent first; a few at a time."""
    seen = {server: at for server, at in _servers(hands.registry.model_tags(hands.name)).items() if at is not None}
    gone = sorted((at, server) for server, at in seen.items() if now - at > after)[:_MAX_FORGOTTEN]
    for at, server in gone:
        forget(hands, server, why=f"nothing was heard of it since {at:%Y-%m-%d %H:%M} UTC", now=now, by=ledger.PROMOTER)
    return [server for _, server in gone]


def _judge_again(hands: Hands, version: ModelVersion, kind: str, why: str, now: datetime) -> None:
    by = this_person()
    hands.judge_again(version.version, f"**To be judged again**: {why} ({by}).")
    hands.logbook.write(Entry(kind=kind, because=why, target=version.version, by=by, at=now))


def _is_quarantined(version: ModelVersion) -> bool:
    return version.tags.get(contract.TAG_STATE) == contract.STATE_QUARANTINED


def _servers(tags: Mapping[str, str]) -> dict[str, datetime | None]:
    """The servers that have written into the registry, and when they last did; None where they do not say."""
    prefix = contract.TAG_SERVER_PREFIX
    return {key.removeprefix(prefix): _seen(text) for key, text in tags.items() if key.startswith(prefix)}


def _seen(heartbeat: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(json.loads(heartbeat)["seen"])
    except (ValueError, KeyError, TypeError):
        return None
    return at if at.tzinfo is not None else None


def _listed(numbers: Sequence[int]) -> str:
    return f"version{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
