"""Where engines listen: a private folder with a short path, wherever temporary files are."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_hooks.errors import EngineStartError
from server import socket_folder
from server.engine_spec import EngineSpec
from server.launcher import start_engine
from server.socket_folder import MAX_SOCKET_PATH_BYTES, socket_dir


@pytest.fixture
def short() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def test_a_long_path_of_temporary_files_is_passed_over(
    tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("d" * 90)
    long.mkdir()
    monkeypatch.setattr(socket_folder.tempfile, "tempdir", str(long))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))

    made = socket_dir()

    assert made.parent == short
    assert len(os.fsencode(made / "e999999.sock")) <= MAX_SOCKET_PATH_BYTES


def test_without_a_short_folder_the_error_names_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_folder, "_bases", lambda: iter([Path("/" + "d" * 90), Path("/nowhere")]))

    with pytest.raises(EngineStartError, match="TMPDIR"):
        socket_dir()


def test_a_path_that_no_socket_can_have_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    spec = EngineSpec(checkpoint_dir="x", uds=str(tmp_path / ("d" * 90) / "e.sock"), model_name="m")

    with pytest.raises(EngineStartError, match="TMPDIR"):
        start_engine(spec, log_path=tmp_path / "e.log", start_timeout_s=60)
    assert not (tmp_path / "e.log").exists()


def test_socket_folders_that_nobody_holds_are_removed_whatever_the_process_number_says(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_folder.tempfile, "tempdir", str(short))
    of_another_container = socket_dir().rename(short / "relay-999999999-held")
    names = ("999999999-dead", f"{os.getpid()}-of-the-container-before", f"{os.getppid()}-lives", "999999999-new")
    dead, before, lives, new = (short / f"relay-{name}" for name in names)
    for folder in (dead, before, lives, new):
        folder.mkdir()
        (folder / "e1.sock").touch()
    for folder in (of_another_container, dead, before, lives):
        os.utime(folder, (1, 1))

    made = socket_dir()

    assert set(short.iterdir()) == {of_another_container, lives, new, made}
    assert made.stat().st_mode & 0o777 == 0o700


def test_the_newest_few_folders_of_one_process_are_held(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_folder.tempfile, "tempdir", str(short))
    for _ in range(20):
        os.utime(socket_dir(), (1, 1))
    num_open = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        os.utime(socket_dir(), (1, 1))

    assert len(list(short.iterdir())) <= 17
    assert len(os.listdir("/proc/self/fd")) == num_open
