"""Spares that die are replaced, but not for ever and not silently; logs of live engines stay."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import pytest

from server import engine_child
from server.engine_child import EngineChild
from server.gateway import engine_logs
from server.gateway.engine_logs import MAX_FOLDERS, MAX_LOGS, EngineLogs
from server.gateway.spare import Spare


class Child:
    """A process that is alive or dead as the test says."""

    def __init__(self) -> None:
        self.alive = True

    def is_alive(self) -> bool:
        return self.alive

    def last_words(self) -> str:
        return "no torch here"

    def stop(self) -> None:
        self.alive = False


class Made(list[Any]):
    def __call__(self) -> EngineChild:
        self.append(Child())
        return cast("EngineChild", self[-1])


def test_a_spare_that_dies_is_replaced_later_each_time() -> None:
    made = Made()
    spare = Spare(made)
    for second in range(41):
        spare.keep(now_s=second)
        if spare.child is not None:
            made[-1].alive = False

    assert len(made) == 6  # at 0, and 1, 2, 4, 8 and 16 seconds after the death of the one before was seen
    assert spare.take() is None


def test_a_spare_that_cannot_be_started_is_no_error_and_is_tried_again_later() -> None:
    tries = list[int]()

    def make() -> EngineChild:
        tries.append(second)
        raise BlockingIOError(11, "Resource temporarily unavailable")

    spare = Spare(make)
    for second in range(10):
        spare.keep(now_s=second)

    assert tries == [0, 1, 3, 7]
    assert spare.take() is None


def test_a_spare_that_was_of_use_ends_the_waiting() -> None:
    made = Made()
    spare = Spare(made)
    for second in (0, 1, 2):
        spare.keep(now_s=second)
        made[-1].alive = second == 2
    used = spare.take()
    spare.keep(now_s=2)

    assert used is made[1]
    assert len(made) == 3


def test_the_log_of_a_live_engine_is_never_removed(tmp_path: Path) -> None:
    logs = EngineLogs(tmp_path)
    served = logs.new(set())
    served.touch()
    os.utime(served, (1, 1))
    for _ in range(2 * MAX_LOGS):
        logs.new({served}).touch()

    assert served.exists()
    assert len(list(logs.folder.iterdir())) == MAX_LOGS + 1


def test_a_log_that_grew_too_large_begins_anew_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_logs, "MAX_LOG_BYTES", 1000)
    path = tmp_path / "engine-1.log"
    with engine_child._log(path) as log:
        log.write(b"much\n" * 1000)
        log.flush()
        engine_logs.bound(path)
        log.write(b"more\n")

    assert path.read_bytes() == b"more\n"


def test_two_gateways_of_one_name_do_not_write_over_each_others_logs(tmp_path: Path) -> None:
    other = tmp_path / f"20260101T000000-{os.getppid()}"
    other.mkdir()
    (other / "engine-1.log").write_text("theirs")
    mine = EngineLogs(tmp_path).new(set())
    mine.write_text("mine")

    assert (other / "engine-1.log").read_text() == "theirs"


def test_only_the_newest_folders_of_gateways_that_are_gone_stay(tmp_path: Path) -> None:
    live = tmp_path / f"20260101T000000-{os.getppid()}"
    gone = [tmp_path / f"20260101T0000{number:02}-99999999" for number in range(MAX_FOLDERS + 5)]
    for age, folder in enumerate([live, *gone]):
        folder.mkdir()
        os.utime(folder, (1000 + age, 1000 + age))
    EngineLogs(tmp_path).new(set())
    left = set(tmp_path.iterdir())

    assert live in left
    assert left & set(gone) == set(gone[-(MAX_FOLDERS - 1) :])


def test_log_folders_of_earlier_containers_whose_process_had_our_number_go_as_well(tmp_path: Path) -> None:
    for number in range(MAX_FOLDERS + 5):
        (tmp_path / f"20260101T0000{number:02}-{os.getpid()}").mkdir()
    EngineLogs(tmp_path)

    assert len(list(tmp_path.iterdir())) == MAX_FOLDERS - 1
