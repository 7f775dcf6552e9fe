"""Where a checkpoint comes from."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.checkpoint import inspect
from pipeline.lineage import config_hash, git_state, lineage_of, training_key


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
    return config_hash(inspect(folder))


def test_checkpoints_of_one_training_have_one_hash_and_one_key(training: Path, tmp_path: Path) -> None:
    first, second = (inspect(training / f"checkpoint-{step}") for step in (20, 40))
    elsewhere = inspect(shutil.copytree(training / "checkpoint-20", tmp_path / "other" / "checkpoint-20"))

    assert config_hash(first) == config_hash(second) == config_hash(elsewhere)
    assert len(config_hash(first)) == 16
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


def test_the_commit_of_the_code_and_whether_it_was_changed(training: Path, tmp_path: Path) -> None:
    code = tmp_path / "code" / "inner"
    code.mkdir(parents=True)
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    git = ["git", "-C", str(code.parent)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    unborn = git_state(code)
    (code / "train.py").write_text("pass")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, *identity, "commit", "--quiet", "-m", "train"], check=True)
    clean = lineage_of(inspect(training / "checkpoint-20"), code_dir=code)
    (code / "train.py").write_text("raise")

    assert unborn == (None, None)
    assert clean.git_commit is not None
    assert (len(clean.git_commit), clean.git_dirty) == (40, False)
    assert git_state(code) == (clean.git_commit, True)


def test_without_a_work_tree_or_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = git_state(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert outside == (None, None)
    assert git_state(Path()) == (None, None)
