"""The schedule around the passes: one promoter at a time, nothing said twice, and no pass that ends the schedule."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline.promotion import scheduling
from pipeline.promotion.scheduling import Passes, one_pass, only_one, other_promoter
from registry_hooks import contract
from registry_hooks.errors import UserError
from registry_hooks.settings import RegistrySettings, Settings

NAME = "model"
NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(scheduling.tempfile, "gettempdir", lambda: str(tmp_path))
    return Settings(registry=RegistrySettings(name=NAME))


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

    assert other_promoter(beat(), now=NOW) == "ada@brain, process 7"
    assert other_promoter(beat(), now=NOW + timedelta(minutes=5)) is None
    assert other_promoter("by hand", now=NOW) is None
    assert other_promoter(None, now=NOW) is None


def test_passes_say_what_is_new_once_and_beat(world: Any, settings: Settings) -> None:
    world.publish()
    passes = Passes(world.promoter, settings)

    with capture_logs() as logs:
        passes.run_once()
        passes.run_once()

    assert [log["event"] for log in logs].count("promoter.rests") == 1
    assert contract.TAG_PROMOTER in world.registry.model_tags(NAME)
    assert not passes.is_stuck()


def test_a_schedule_that_ended_silently_or_a_pass_without_end_is_noticed(world: Any, settings: Settings) -> None:
    world.publish()
    passes = Passes(world.promoter, settings)
    passes.run_once()
    an_hour_later = time.monotonic() + 3600
    none_came = passes.is_stuck(now_s=an_hour_later)
    seen: list[bool] = []
    world.promoter.clock = lambda: seen.append(passes.is_busy) or seen.append(passes.is_stuck(now_s=an_hour_later))
    world.publish(score=5)
    passes.run_once()

    assert none_came
    assert seen[:2] == [True, False]  # a pass may take that long: it scores
    assert not passes.is_busy


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
def promoter_of(settings):
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
    passes = Passes(world.promoter, settings)
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
