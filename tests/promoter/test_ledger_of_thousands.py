"""The ledger: what is looked for is found whatever was written since, and each alias has its own entries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipeline.promotion import ledger
from pipeline.promotion.ledger import Entry
from pipeline.promotion.logbook import Logbook

NAME = "model"


def entry(kind: str, target: int | None, **changes: Any) -> Entry:
    return Entry(kind=kind, because="", target=target, **changes)


def logbook(world: Any, alias: str = "Production") -> Logbook:
    return Logbook(sink=world.registry, log=world.registry, name=NAME, alias=alias)


def write_as_before(world: Any, one: Entry) -> None:
    """As it was written before entries said which alias they are about."""
    record = ledger.to_run(NAME, one)
    params = {key: value for key, value in record.params.items() if key not in ("alias", "moves")}
    world.registry.record_run(replace(record, params=params, started_at=world.now()))


def test_a_pass_asks_for_as_many_runs_after_thousands_of_decisions_as_before(settled: Any) -> None:
    def asked() -> int:
        seen: list[int] = []
        find, latest = settled.registry.find_runs, settled.registry.latest_runs
        settled.registry.find_runs = lambda *a, **k: (seen.append(k["limit"]), find(*a, **k))[1]
        settled.registry.latest_runs = lambda *a: (seen.append(a[1]), latest(*a))[1]
        settled.promoter.reconcile()
        settled.registry.find_runs, settled.registry.latest_runs = find, latest
        return sum(seen)

    before = asked()
    for _ in range(3000):
        logbook(settled).write(entry(ledger.KEEP, None))

    assert asked() == before
    assert before < 50


def test_entries_from_before_they_said_their_alias_are_those_of_the_default_one(world: Any) -> None:
    for kind, target in (("promote", 1), ("manual", 3), ("promote", 2), ("rollback", 1), ("keep", None)):
        write_as_before(world, entry(kind, target))
    ours, other = logbook(world), logbook(world, "Staging")
    seen_old = (ours.last_choice(), [one.target for one in ours.moves(9)])
    ours.write(entry("manual", 4, at=world.now()))
    last = ours.last_move()

    assert seen_old == (2, [1, 2, 3, 1])
    assert (other.last_move(), other.last_choice(), other.moves(9)) == (None, None, [])
    assert last is not None
    assert (last.target, [one.target for one in ours.moves(9)]) == (4, [4, 1, 2, 3, 1])


def test_a_move_of_another_alias_is_none_of_this_one(settled: Any) -> None:
    logbook(settled, "Staging").write(entry("manual", 1, at=settled.now()))
    logbook(settled, "Staging").open(entry("promote", 1, at=settled.now()))

    outcome = settled.promoter.reconcile()

    assert (outcome.done, outcome.resting, settled.production) == ([], "nothing new", 2)


def test_what_a_version_was_in_is_found_behind_thousands_of_others(settled: Any) -> None:
    for _ in range(1000):
        logbook(settled).write(entry(ledger.KEEP, None))

    assert [one.kind for one in logbook(settled).about(1, 5)] == ["promote", "promote"]


def test_numbers_of_versions_are_one_metric_with_the_version_as_its_step() -> None:
    numbers = {"difference/12": 0.5, "difference/13": -0.25, "p_adjusted/12": 0.01, "eval/loss": 2.0, "gain": 1.0}

    record = ledger.to_run(NAME, entry("keep", None, numbers=numbers))

    assert record.metrics == {"eval/loss": 2.0, "gain": 1.0}
    assert record.series == {"difference": {12: 0.5, 13: -0.25}, "p_adjusted": {12: 0.01}}
