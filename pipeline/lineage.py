"""Where a checkpoint comes from: configuration hash, and the commit of the code that trained it.

The configuration hash is the first 16 hex digits of the sha256 of this JSON, with sorted keys and no spaces:
`{"model": …, "training": …}`. `model` is `config.json` without `_name_or_path` and `transformers_version`. `training`
is `training_args.json` without the keys that name a place or a machine, where the training wrote one (for example
`TrainingArguments.to_json_string()`); else the fields of `trainer_state.json` that stay the same for a whole training.
So all checkpoints of one training have one hash, and a changed learning rate gives another one where it is known.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

from pipeline.checkpoint import Checkpoint
from registry_hooks.checkpoint_files import CONFIG_FILE, read_json_object
from registry_hooks.records import Lineage

TRAINING_ARGS_FILE = "training_args.json"
_HASH_CHARS = 16
_UNTOLD_OF_MODEL = ("_name_or_path", "transformers_version")
_UNTOLD_OF_TRAINING = ("output_dir", "logging_dir", "run_name", "local_rank", "resume_from_checkpoint", "_n_gpu")
_GIT_TIMEOUT_S = 10.0


def lineage_of(checkpoint: Checkpoint, *, code_dir: Path) -> Lineage:
    """The lineage of a checkpoint that was trained by the code in `code_dir`."""
    commit, dirty = git_state(code_dir)
    return Lineage(
        step=checkpoint.step,
        config_hash=config_hash(checkpoint),
        git_commit=commit,
        git_dirty=dirty,
        saved_at=checkpoint.saved_at,
    )


def config_hash(checkpoint: Checkpoint) -> str:
    """The configuration hash; the head of this module says over what."""
    model = read_json_object(checkpoint.folder / CONFIG_FILE)
    arguments = checkpoint.folder / TRAINING_ARGS_FILE
    training = read_json_object(arguments) if arguments.is_file() else dict(checkpoint.state.arguments)
    document = {
        "model": {key: value for key, value in model.items() if key not in _UNTOLD_OF_MODEL},
        "training": {key: value for key, value in training.items() if key not in _UNTOLD_OF_TRAINING},
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARS]


def git_state(code_dir: Path) -> tuple[str | None, bool | None]:
    """Commit of the work tree that `code_dir` is in, and whether it has changes; None, None outside of one."""
    commit = _git(code_dir, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None, None
    changes = _git(code_dir, "status", "--porcelain")
    return commit, bool(changes) if changes is not None else None


def training_key(checkpoint: Checkpoint, config: str) -> str:
    """Names the training: checkpoints of one output folder and one configuration share it."""
    place = checkpoint.origin.resolve().parent
    return hashlib.sha256(f"{place}\n{config}".encode()).hexdigest()[:_HASH_CHARS]


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command that changes nothing; None when git, the work tree or an answer in time is missing."""
    environ = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            check=False,
            env=environ,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=_GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
