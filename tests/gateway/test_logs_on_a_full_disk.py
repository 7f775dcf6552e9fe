"""A log that cannot be written is no reason to stop serving."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from server.engine_child import EngineChild
from server.gateway.engine_logs import MAX_LOGS, EngineLogs

TELLS = """
from registry_hooks import events
import sys
events.configure()
events.logger().info("engine.died")
print("a library's own words", file=sys.stderr, flush=True)
print("alive")
"""


def test_events_and_libraries_may_write_to_a_full_disk() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", TELLS], stderr=full, stdout=subprocess.PIPE, text=True, check=False
        )

    assert done.stdout == "alive\n"


def test_an_engine_starts_also_where_its_log_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    child = EngineChild(tmp_path / "logs/engine-1.log", stop_grace_s=1, command=["sleep", "60"])
    was_alive = child.is_alive()
    child.stop()

    assert was_alive
    assert not child.is_alive()


def test_old_logs_that_cannot_be_removed_keep_no_engine_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = EngineLogs(tmp_path)
    for _ in range(MAX_LOGS + 1):
        logs.new(set()).touch()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)

    assert logs.new(set()).parent == logs.folder
