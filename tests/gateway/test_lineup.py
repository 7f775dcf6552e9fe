"""The line-up: one pointer flips, and a request keeps the engine that it began on."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import cast

from registry_hooks.records import ModelVersion
from server.gateway.lineup import Checkpoint, LineUp, Slot
from server.launcher import Engine


class StandIn:
    """The only thing that a line-up asks of an engine."""

    def __init__(self) -> None:
        self.alive = True

    def is_alive(self) -> bool:
        return self.alive


def a_slot(number: int) -> Slot:
    version = ModelVersion(name="m", version=number, run_id=None, model_id=None, artifact_uri=f"s3://b/{number}")
    checkpoint = Checkpoint(version=version, digest=f"{number}" * 64, directory="", attested=True, size_bytes=1)
    return Slot(checkpoint=checkpoint, engine=cast("Engine", StandIn()), loaded_at=datetime.now(UTC))


def kill(slot: Slot) -> None:
    cast("StandIn", slot.engine).alive = False


def test_requests_after_a_flip_go_to_the_new_engine_and_earlier_ones_stay() -> None:
    lineup, one, two = LineUp("m", "Production"), a_slot(1), a_slot(2)
    lineup.flip(one)
    early = lineup.take(None)
    lineup.flip(two)

    assert early is one
    assert lineup.take(None) is two
    assert lineup.previous is one


def test_a_third_version_pushes_the_oldest_out() -> None:
    lineup, one, two, three = LineUp("m", "Production"), a_slot(1), a_slot(2), a_slot(3)

    assert [lineup.flip(slot) for slot in (one, two, three)] == [(), (), (one,)]


def test_flipping_back_to_the_warm_engine_pushes_nothing_out() -> None:
    lineup, one, two = LineUp("m", "Production"), a_slot(1), a_slot(2)
    lineup.flip(one)
    lineup.flip(two)

    assert lineup.flip(one) == ()
    assert (lineup.current, lineup.previous) == (one, two)


def test_every_name_of_the_served_version_is_known() -> None:
    lineup, one, two = LineUp("m", "Production"), a_slot(1), a_slot(2)
    lineup.flip(one)
    lineup.flip(two)

    assert [lineup.take(name) for name in ("m", "m@Production", "m/2", "m/1")] == [two, two, two, one]
    assert lineup.take("m/3") is None
    assert not lineup.knows("m/3")
    assert not lineup.knows("m@production")
    assert set(lineup.names()) == {"m", "m@Production", "m/1", "m/2"}


def test_a_dead_engine_is_known_but_takes_no_request() -> None:
    lineup, one = LineUp("m", "Production"), a_slot(1)
    lineup.flip(one)
    kill(one)

    assert lineup.take("m") is None
    assert lineup.knows("m")
    assert not lineup.names()


def test_a_dead_engine_is_never_kept_warm_and_the_warm_one_lives_on() -> None:
    lineup, one, two, three = LineUp("m", "Production"), a_slot(1), a_slot(2), a_slot(3)
    lineup.flip(one)
    lineup.flip(two)
    kill(two)

    assert lineup.flip(three) == (two,)
    assert (lineup.current, lineup.previous) == (three, one)


def test_of_a_dead_previous_engine_nothing_is_left_but_its_end() -> None:
    lineup, one, two = LineUp("m", "Production"), a_slot(1), a_slot(2)
    lineup.flip(one)
    lineup.flip(two)
    alive = lineup.drop_previous(only_dead=True)
    kill(one)

    assert not lineup.knows("m/1")
    assert "m/1" not in lineup.names()
    assert (alive, lineup.drop_previous(only_dead=True), lineup.previous) == (None, one, None)


def test_an_engine_that_is_retiring_is_in_the_line_up_until_it_has_been_stopped() -> None:
    lineup, one, two, again = LineUp("m", "Production"), a_slot(1), a_slot(2), a_slot(2)
    lineup.flip(one)
    lineup.flip(two)
    lineup.drop_previous()
    kill(two)
    lineup.replace_dead(again)
    retiring = lineup.slots()
    for slot in (one, two):
        lineup.retired(slot)

    assert retiring == (again, one, two)
    assert (one.leaving, two.leaving, again.leaving) == ("replaced", "", "")  # nobody told the dead one to go
    assert lineup.slots() == (again,)


def test_draining_waits_for_the_last_request() -> None:
    lineup, one = LineUp("m", "Production"), a_slot(1)
    lineup.flip(one)
    taken = lineup.take(None)
    assert taken is one
    assert not lineup.wait_drained(one, 0.01)
    threading.Timer(0.05, lineup.give_back, [one]).start()

    assert lineup.wait_drained(one, 5.0)


def test_draining_a_dead_engine_does_not_wait() -> None:
    lineup, one = LineUp("m", "Production"), a_slot(1)
    lineup.flip(one)
    lineup.take(None)
    kill(one)

    assert lineup.wait_drained(one, 5.0)
