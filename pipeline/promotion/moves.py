"""What a person does by command: promote, roll back, hold, release, freeze, quarantine; on record as all decisions."""

from __future__ import annotations

import getpass
import socket
from dataclasses import replace
from datetime import UTC, datetime

from pipeline.promotion import ledger, standing
from pipeline.promotion.acting import Hands
from pipeline.promotion.ledger import Entry
from pipeline.promotion.marks import write_mark
from pipeline.promotion.standing import Standing
from registry_hooks import contract
from registry_hooks.errors import UnknownModelError, UserError


def this_person() -> str:
    """User and host, for the record."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


def promote(hands: Hands, number: int, *, why: str, now: datetime) -> str:
    """Point the alias at a version, and hold it there; what was done, as a sentence.

    The promoter's own last choice needs no hold: there the two agree.

    Raises:
        UnknownModelError: There is no such version; nothing was moved.
        SupersededError: The alias was moved by somebody else meanwhile; nothing was moved.
    """
    hands.registry.get_version(hands.name, number)
    seen = _look(hands)
    return _move(hands, seen, Entry(kind=ledger.MANUAL, because=why, target=number, by=this_person(), at=now))


def roll_back(hands: Hands, *, why: str, now: datetime) -> str:
    """Point the alias at `LastGood`, else at what it named before, and hold it there.

    Raises:
        UserError: There is nothing to go back to.
    """
    seen = _look(hands)
    last = seen.last_move.previous if seen.last_move else None
    for target in (seen.aliases.get(contract.ALIAS_LAST_GOOD), last):
        if target is not None and target != seen.production and target not in seen.barred and _exists(hands, target):
            entry = Entry(kind=ledger.ROLLBACK, because=why, target=target, by=this_person(), at=now)
            return _move(hands, seen, entry)
    raise UserError(
        f"there is no earlier version to go back to, and nothing was moved: {contract.ALIAS_LAST_GOOD} names none "
        "that differs; use `relay promote N`"
    )


def hold(hands: Hands, *, why: str, now: datetime) -> str:
    """Stop all automatic moves."""
    _set(hands, contract.TAG_HOLD, ledger.HOLD, why=why, now=now)
    return f"held: the promoter moves nothing until `relay release` ({why})"


def freeze(hands: Hands, *, why: str, now: datetime) -> str:
    """Stop automatic promotions; going back from a version that a server refuses stays allowed."""
    _set(hands, contract.TAG_FREEZE, ledger.FREEZE, why=why, now=now)
    return f"frozen: the promoter promotes nothing until `relay release` ({why})"


def release(hands: Hands, *, why: str, now: datetime) -> str:
    """End a hold and a freeze."""
    seen = _look(hands)
    if seen.hold is None and seen.freeze is None:
        return "nothing was held or frozen"
    for key in (contract.TAG_HOLD, contract.TAG_FREEZE):
        hands.registry.set_model_tag(hands.name, key, None)
    _record(hands, Entry(kind=ledger.RELEASE, because=why, target=seen.production, by=this_person(), at=now))
    return f"released; {len(seen.unjudged)} versions wait to be judged"


def quarantine(hands: Hands, number: int, *, why: str, now: datetime) -> str:
    """Bar a version, and all with the same files, from coming into production by themselves.

    Raises:
        UnknownModelError: There is no such version.
    """
    version = hands.registry.get_version(hands.name, number)
    barred = hands.bar(version, why)
    _record(hands, Entry(kind=ledger.QUARANTINE, because=why, target=number, by=this_person(), at=now))
    still = ", which it names now: `relay rollback` moves it" if _look(hands).production in barred else ""
    return f"quarantined {', '.join(map(str, barred))}: never by itself in {hands.alias}{still}"


def _move(hands: Hands, seen: Standing, entry: Entry) -> str:
    if entry.target == seen.production or entry.target is None:
        return f"{hands.alias} names version {entry.target} already; nothing was moved"
    agrees = entry.target == seen.last_choice
    if agrees:
        hands.registry.set_model_tag(hands.name, contract.TAG_HOLD, None)
    else:
        _set_tag(hands, contract.TAG_HOLD, entry, why=f"{entry.kind} {entry.target}: {entry.because}")
    run_id = hands.move(replace(entry, previous=seen.production), _look(hands))
    story = f"**{entry.kind.capitalize()}** by {entry.by}: {entry.because}."
    hands.write_verdict(entry.target, run_id, story, entry.because)
    held = "" if agrees else "; the promoter leaves it there until `relay release`"
    return f"{hands.alias} names version {entry.target} now{held}"


def _set(hands: Hands, key: str, kind: str, *, why: str, now: datetime) -> None:
    entry = Entry(kind=kind, because=why, target=_look(hands).production, by=this_person(), at=now)
    _set_tag(hands, key, entry, why=why)
    _record(hands, entry)


def _set_tag(hands: Hands, key: str, entry: Entry, *, why: str) -> None:
    since = entry.at or datetime.now(UTC)
    hands.registry.set_model_tag(hands.name, key, write_mark(who=entry.by, why=why, since=since))


def _record(hands: Hands, entry: Entry) -> None:
    hands.logbook.write(entry)


def _look(hands: Hands) -> Standing:
    return standing.read(hands.registry, hands.book, hands.name, hands.alias, thorough=True)


def _exists(hands: Hands, number: int) -> bool:
    try:
        hands.registry.get_version(hands.name, number)
    except UnknownModelError:
        return False
    return True
