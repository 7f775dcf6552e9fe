"""Where a checkpoint comes from."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline import code_state
from pipeline.checkpoint import inspect
from pipeline.code_state import CodeState
from pipeline.lineage import config_hash, lineage_of, training_key
from pipeline.training_arguments import arguments_of


@pytest.fixture
def training(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    for step in (20, 40):
        folder = tmp_path / "sft" / f"checkpoint-{step}"
        shutil.copytree(tiny_checkpoint, folder)
        change_json(folder / "trainer_state.json", global_step=step, log_history=[{"step": step, "eval_loss": 1.0}])
    return tmp_path / "sft"


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}), encoding="utf-8")


def hash_of(folder: Path) -> str:
    found = inspect(folder)
    return config_hash(found, arguments_of(folder, found.state, None))


def test_checkpoints_of_one_training_have_one_hash_and_one_key(training: Path, tmp_path: Path) -> None:
    first, second = (inspect(training / f"checkpoint-{step}") for step in (20, 40))
    elsewhere = inspect(shutil.copytree(training / "checkpoint-20", tmp_path / "other" / "checkpoint-20"))

    assert hash_of(first.folder) == hash_of(second.folder) == hash_of(elsewhere.folder)
    assert len(hash_of(first.folder)) == 16
    assert training_key(first, "c") == training_key(second, "c") != training_key(elsewhere, "c")


def test_a_changed_configuration_changes_the_hash_and_a_changed_place_does_not(training: Path) -> None:
    folder = training / "checkpoint-20"
    before = hash_of(folder)
    change_json(folder / "config.json", transformers_version="6.0.0", _name_or_path="/home/ann/base")
    unchanged = hash_of(folder)
    change_json(folder / "config.json", rope_theta=5.0)
    other_model = hash_of(folder)
    (folder / "training_args.json").write_text('{"learning_rate": 0.1, "output_dir": "a"}')
    other_arguments = hash_of(folder)
    (folder / "training_args.json").write_text('{"learning_rate": 0.1, "output_dir": "b"}')

    assert before == unchanged
    assert len({before, other_model, other_arguments}) == 3
    assert hash_of(folder) == other_arguments


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A work tree with one commit."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "train.py").write_text("pass")
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True)


def commit(folder: Path) -> None:
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "train")


def test_the_commit_of_the_code_and_whether_it_was_changed(training: Path, code: Path) -> None:
    inner = code / "inner"
    inner.mkdir()
    clean = code_state.look(inner)
    (code / "train.py").write_text("raise")
    lineage = lineage_of(inspect(training / "checkpoint-20"), code=clean, arguments={})

    assert clean.commit is not None
    assert (len(clean.commit), clean.is_dirty, clean.trouble) == (40, False, "")
    assert (lineage.git_commit, lineage.git_dirty) == (clean.commit, False)
    assert code_state.look(code) == CodeState(commit=clean.commit, is_dirty=True)


def test_a_folder_of_runs_that_git_does_not_know_makes_nothing_dirty(code: Path) -> None:
    (code / "runs" / "checkpoint-20").mkdir(parents=True)
    (code / "runs" / "checkpoint-20" / "config.json").write_text("{}")

    assert code_state.look(code).is_dirty is False


def test_a_work_tree_of_another_user_is_said_with_what_mends_it(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    state = code_state.look(code)

    assert state.commit is None
    assert "safe.directory" in state.trouble


def test_without_a_work_tree_or_git_or_a_commit_there_is_nothing_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = code_state.look(tmp_path)
    (tmp_path / "unborn").mkdir()
    git(tmp_path / "unborn", "init", "--quiet")
    unborn = code_state.look(tmp_path / "unborn")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert outside == unborn == code_state.look(Path()) == CodeState()
