"""What a person does by command: promote, roll back, hold, release, freeze, quarantine; on record as all decisions."""

from __future__ import annotations

import getpass
import socket
from dataclasses import replace
from datetime import UTC, datetime

from pipeline.promotion import ledger, standing
from pipeline.promotion.acting import Hands, SupersededError
from pipeline.promotion.ledger import Entry
from pipeline.promotion.logbook import NUM_MOVES
from pipeline.promotion.marks import hold_of, read_mark, write_mark
from pipeline.promotion.standing import Standing
from pipeline.promotion.way_back import way_back
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
    """Point the alias at a version, and hold it there, also when it is there already; what was done, as a sentence.

    Raises:
        UnknownModelError: There is no such version; nothing was moved.
        SupersededError: The alias was moved by somebody else meanwhile; nothing was moved.
    """
    hands.registry.get_version(hands.name, number)
    seen = _look(hands)
    return _move(hands, seen, Entry(kind=ledger.MANUAL, because=why, target=number, by=this_person(), at=now))


def roll_back(hands: Hands, *, why: str, now: datetime, to: int | None = None) -> str:
    """Point the alias at what served well before what it names now, and hold it there; twice is two steps back.

    Args:
        to: The version to go back to, whatever is on record of it; None for the one before.

    Raises:
        UnknownModelError: There is no version `to`.
        UserError: There is nothing to go back to.
    """
    seen = _look(hands)
    if to is not None:
        hands.registry.get_version(hands.name, to)
    target = (
        to if to is not None else next((one for one in _way_back(hands, seen) if _may_serve(hands, seen, one)), None)
    )
    if target is None:
        raise UserError(
            f"there is no earlier version to go back to, and nothing was moved: none that {hands.alias} named before "
            "is still there and neither quarantined nor refused; use `relay rollback --to N`"
        )
    entry = Entry(kind=ledger.ROLLBACK, because=why, target=target, by=this_person(), at=now)
    return _move(hands, seen, entry, keep_last_good=True)


def hold(hands: Hands, *, why: str, now: datetime) -> str:
    """Stop all automatic moves."""
    _set(hands, contract.hold_tag(hands.alias), ledger.HOLD, why=why, now=now)
    return f"held: the promoter moves nothing until `relay release` ({why})"


def freeze(hands: Hands, *, why: str, now: datetime) -> str:
    """Stop automatic promotions; going back from a version that a server refuses stays allowed."""
    _set(hands, contract.freeze_tag(hands.alias), ledger.FREEZE, why=why, now=now)
    return f"frozen: the promoter promotes nothing until `relay release` ({why})"


def release(hands: Hands, *, why: str, now: datetime) -> str:
    """End a hold and a freeze of this alias."""
    tags, seen = hands.registry.model_tags(hands.name), _look(hands)
    ours = [key for key in (contract.hold_tag(hands.alias), contract.freeze_tag(hands.alias)) if key in tags]
    if not ours and (seen.hold is not None or seen.freeze is not None):
        return (
            f"nothing was released: what holds {hands.alias} holds all aliases of {hands.name}; release it as that of "
            f"{contract.ALIAS_PRODUCTION} (RELAY_REGISTRY__ALIAS={contract.ALIAS_PRODUCTION} relay release)"
        )
    if not ours:
        return "nothing was held or frozen"
    for key in ours:
        hands.registry.set_model_tag(hands.name, key, None)
    hands.logbook.write(Entry(kind=ledger.RELEASE, because=why, target=seen.production, by=this_person(), at=now))
    return f"released; {len(seen.unjudged)} versions wait to be judged"


def quarantine(hands: Hands, number: int, *, why: str, now: datetime) -> str:
    """Bar a version, and all with the same files, from coming into production by themselves.

    Raises:
        UnknownModelError: There is no such version.
    """
    version, seen = hands.registry.get_version(hands.name, number), _look(hands)
    barred = hands.bar(version, why)
    hands.logbook.write(Entry(kind=ledger.QUARANTINE, because=why, target=number, by=this_person(), at=now))
    still = ", which it names now: `relay rollback` moves it" if seen.production in barred else ""
    return f"quarantined {', '.join(map(str, barred))}: never by itself in {hands.alias}{still}"


def _move(hands: Hands, seen: Standing, entry: Entry, *, keep_last_good: bool = False) -> str:
    key = contract.hold_tag(hands.alias)
    before = hands.registry.model_tags(hands.name).get(key)
    mark = read_mark(before)
    # A hold that somebody set on purpose says why already, and stays; that of the last move tells of another version.
    if mark is None or mark.was_noted or (seen.last_move is not None and mark.why == _why_held(seen.last_move)):
        _set_tag(hands, key, entry, why=_why_held(entry))
    leaves = f"the promoter leaves it there until `relay release` (held: {_held(hands)})"
    if entry.target == seen.production:
        hands.logbook.write(replace(entry, previous=seen.production))
        return f"{hands.alias} names version {entry.target} already; nothing was moved, and {leaves}"
    try:
        run_id = hands.move(replace(entry, previous=seen.production), _look(hands), keep_last_good=keep_last_good)
    except SupersededError:  # nothing was moved; after any other error nobody knows, and what may be moved is held
        hands.registry.set_model_tag(hands.name, key, before)
        raise
    story = f"**{entry.kind.capitalize()}** by {entry.by}: {entry.because}."
    hands.write_verdict(entry.target or 0, run_id, story, entry.because)
    return f"{hands.alias} names version {entry.target} now, and {leaves}"


def _way_back(hands: Hands, seen: Standing) -> list[int]:
    """What the alias named before, the last first; `LastGood` where nothing else is known."""
    named = way_back(hands.logbook.moves(NUM_MOVES))
    earlier = named[named.index(seen.production) + 1 :] if seen.production in named else named
    last_good = seen.aliases.get(contract.ALIAS_LAST_GOOD)
    went_back = seen.last_move is not None and seen.last_move.kind == ledger.ROLLBACK
    return [*earlier, *([last_good] if last_good is not None and not went_back else [])]


def _may_serve(hands: Hands, seen: Standing, number: int) -> bool:
    if number == seen.production or number in seen.barred:
        return False
    try:
        return not seen.refused(hands.registry.get_version(hands.name, number))
    except UnknownModelError:
        return False


def _why_held(move: Entry) -> str:
    return f"{move.kind} {move.target}: {move.because}"


def _held(hands: Hands) -> str:
    mark = hold_of(hands.registry.model_tags(hands.name), hands.alias)
    return mark.why if mark is not None else ""


def _set(hands: Hands, key: str, kind: str, *, why: str, now: datetime) -> None:
    entry = Entry(kind=kind, because=why, target=_look(hands).production, by=this_person(), at=now)
    _set_tag(hands, key, entry, why=why)
    hands.logbook.write(entry)


def _set_tag(hands: Hands, key: str, entry: Entry, *, why: str) -> None:
    since = entry.at or datetime.now(UTC)
    hands.registry.set_model_tag(hands.name, key, write_mark(who=entry.by, why=why, since=since))


def _look(hands: Hands) -> Standing:
    return standing.read(hands.registry, hands.book, hands.name, hands.alias, thorough=True)
