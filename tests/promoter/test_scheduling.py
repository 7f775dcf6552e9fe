"""The schedule around the passes: one promoter at a time, nothing said twice, and no pass that ends the schedule."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline.promotion import heartbeat, machine_lock
from pipeline.promotion.passes import Passes
from pipeline.promotion.pulse import Pulse
from pipeline.promotion.scheduling import one_pass, only_one
from registry_hooks import contract
from registry_hooks.errors import UserError
from registry_hooks.settings import RegistrySettings, Settings

NAME = "model"
NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Any) -> Settings:
    return Settings(registry=RegistrySettings(name=NAME, tracking_uri=f"http://{tmp_path.name}-{os.getpid()}"))


def test_a_second_promoter_on_this_machine_is_refused(settings: Settings) -> None:
    with only_one(settings), pytest.raises(UserError, match="another promoter of model"), only_one(settings):
        pass
    with only_one(settings), one_pass(settings):
        pass


def test_a_pass_by_hand_waits_for_the_one_under_way_and_says_so(settings: Settings) -> None:
    waits, done = threading.Event(), threading.Event()

    def by_hand() -> None:
        with one_pass(settings, on_wait=waits.set):
            done.set()

    with one_pass(settings, on_wait=waits.set):
        waited_before = waits.is_set()
        thread = threading.Thread(target=by_hand)
        thread.start()
        said = waits.wait(10)
        done_before = done.is_set()
    thread.join(10)

    assert (waited_before, said, done_before, done.is_set()) == (False, True, False, True)


def test_another_promoter_elsewhere_is_seen_by_its_heartbeat() -> None:
    def beat(**changes: Any) -> str:
        return json.dumps({"who": "ada@brain", "pid": 7, "seen": NOW.isoformat()} | changes)

    def other(tag: str | None, minutes: int = 0) -> str | None:
        return heartbeat.other_promoter(tag, who="bob@brain", pid=7, now=NOW + timedelta(minutes=minutes))

    assert other(beat()) == "ada@brain, process 7"
    assert other(beat(who="bob@brain")) is None
    assert other(beat(state="stopped")) is None
    assert other(beat(), minutes=5) is None
    assert [other(text) for text in ("by hand", None, beat(seen="2026-05-01T00:00:00"))] == [None, None, None]


def passes_of(world: Any, settings: Settings, pulse: Pulse | None = None) -> Passes:
    return Passes(world.promoter, settings, lock=lambda: one_pass(settings), pulse=pulse)


def beat_of(world: Any) -> heartbeat.Heartbeat:
    beat = heartbeat.read(world.registry.model_tags(NAME).get(contract.TAG_PROMOTER))
    assert beat is not None
    return beat


def test_passes_say_what_is_new_once_and_beat(world: Any, settings: Settings) -> None:
    world.publish()
    passes = passes_of(world, settings)

    with capture_logs() as logs:
        passes.run_once()
        first = beat_of(world)
        passes.run_once()

    assert [log["event"] for log in logs].count("promoter.rests") == 1
    assert (first.state, first.because, first.pid) == ("rests", "nothing new", os.getpid())
    assert beat_of(world).since == first.since
    assert not passes.is_stuck()


def test_the_registry_says_that_a_promoter_works_cannot_and_was_stopped(world: Any, settings: Settings) -> None:
    world.publish()
    passes = passes_of(world, settings)
    states = []
    world.promoter.clock = lambda: states.append(beat_of(world).state) or world.now()
    passes.run_once()
    world.promoter.clock = world.now
    world.publish()
    world.table.broken = "the engine hung"
    passes.run_once()
    cannot_score = beat_of(world)
    world.table.judge = None
    world.publish()
    passes.run_once()
    failed = beat_of(world)
    passes.say_goodbye()

    assert states[0] == "works"
    assert (cannot_score.state, "the engine hung" in cannot_score.because) == ("rests", True)
    assert failed.state == "cannot"
    assert beat_of(world).state == "stopped"


def test_a_schedule_that_ended_silently_or_a_pass_without_progress_is_noticed(world: Any, settings: Settings) -> None:
    pulse = Pulse()
    passes = passes_of(world, settings, pulse)
    world.publish()
    passes.run_once()

    def stuck_after(seconds: float) -> bool:
        pulse.beat()
        for _ in range(int(seconds)):
            pulse.tick(1.0)
        return passes.is_stuck()

    rests = [stuck_after(60), stuck_after(600)]
    in_a_pass: list[bool] = []
    world.promoter.clock = lambda: in_a_pass.extend((passes.is_busy, stuck_after(7000), stuck_after(8000))) or NOW
    world.publish(score=5)
    passes.run_once()

    assert rests == [False, True]
    assert in_a_pass[:3] == [True, False, True]  # an hour to fetch, an hour to score, and then something is wrong
    assert not passes.is_busy


def test_a_machine_that_slept_and_a_process_that_was_stopped_are_not_stuck(world: Any, settings: Settings) -> None:
    pulse = Pulse()
    passes = passes_of(world, settings, pulse)
    pulse.tick(8 * 3600.0)

    assert not passes.is_stuck()


def test_the_names_of_this_machine_are_one_registry_and_another_model_is_another_lock(settings: Settings) -> None:
    def name(uri: str, model: str = NAME) -> str:
        return machine_lock.name_of("pass", Settings(registry=RegistrySettings(name=model, tracking_uri=uri)))

    here = {name(uri) for uri in ("http://localhost:5000", "http://127.0.0.1:5000/", "HTTP://[::1]:5000")}

    assert len(here) == 1
    assert len(here | {name("http://localhost:5001"), name("http://box:5000"), name("http://localhost:5000", "b")}) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is a file in the temporary folder")
def test_a_lock_holds_between_processes_that_share_no_temporary_folder(tmp_path: Any) -> None:
    name = f"relay-test-{os.getpid()}"
    ask = f"from pipeline.promotion import machine_lock; print(machine_lock.try_lock({name!r}) is None)"

    def is_taken() -> str:
        env = {**os.environ, "TMPDIR": str(tmp_path)}
        return subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True, env=env).stdout

    release = machine_lock.try_lock(name)
    assert release is not None
    taken = is_taken()
    release()

    assert (taken, is_taken()) == ("True\n", "False\n")


PROMOTER = """
import sys, time, contextlib
from pipeline.promotion import scheduling
from registry_hooks import events
from registry_hooks.settings import RegistrySettings, Settings
events.configure()
class Slow:
    def reconcile(self):
        print("scoring", flush=True)
        time.sleep(600)
    def difference(self):
        return None
@contextlib.contextmanager
def promoter_of(settings, **_):
    yield Slow(), []
scheduling.promoter_of = promoter_of
sys.exit(scheduling.run(Settings(registry=RegistrySettings(name=sys.argv[1])), say=print))
"""


@pytest.mark.integration
def test_ctrl_c_ends_a_promoter_in_the_middle_of_a_long_pass(tmp_path: Any) -> None:
    command = [sys.executable, "-c", PROMOTER, f"slow-{os.getpid()}"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as one:
        assert one.stdout is not None
        begun = one.stdout.readline()
        one.send_signal(signal.SIGINT)
        code = one.wait(30)

    assert (begun, code) == ("scoring\n", 0)


def test_whatever_a_pass_meets_the_next_one_comes(world: Any, settings: Settings) -> None:
    passes = passes_of(world, settings)
    with capture_logs() as logs:
        passes.run_once()
        world.publish()
        world.registry.down = True
        passes.run_once()
        passes.run_once()
        world.registry.down = False
        passes.run_once()
        world.table.judge = None
        world.publish()
        passes.run_once()

    events = [log["event"] for log in logs if log["event"].startswith("promoter.")]
    assert events == ["promoter.waits", "promoter.cannot", "promoter.rests", "promoter.failed"]
    assert world.production == 1
