"""Where a checkpoint comes from: configuration hash, and the commit of the code that trained it.

The configuration hash is the first 16 hex digits of the sha256 of this JSON, with sorted keys and no spaces:
`{"model": …, "training": …}`. `model` is `config.json` without `_name_or_path` and `transformers_version`. `training`
is what `training_arguments.hashed` leaves of the training's arguments: not places, names and machines, nor what is
logged, evaluated and saved, nor how long the training goes on. So all checkpoints of one training have one hash, also
when it is extended, and another learning rate, batch, seed or schedule gives another one, where they are known.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pipeline import training_arguments
from pipeline.checkpoint import Checkpoint
from pipeline.code_state import CodeState
from registry_hooks.checkpoint_files import CONFIG_FILE, read_json_object
from registry_hooks.records import Lineage

_HASH_CHARS = 16
_UNTOLD_OF_MODEL = ("_name_or_path", "transformers_version")


def lineage_of(checkpoint: Checkpoint, *, code: CodeState, arguments: Mapping[str, Any]) -> Lineage:
    """The lineage of a checkpoint that was trained by `code` with these arguments."""
    return Lineage(
        step=checkpoint.step,
        config_hash=config_hash(checkpoint, arguments),
        git_commit=code.commit,
        git_dirty=code.is_dirty,
        saved_at=checkpoint.saved_at,
    )


def config_hash(checkpoint: Checkpoint, arguments: Mapping[str, Any]) -> str:
    """The configuration hash; the head of this module says over what."""
    model = read_json_object(checkpoint.folder / CONFIG_FILE)
    document = {
        "model": {key: value for key, value in model.items() if key not in _UNTOLD_OF_MODEL},
        "training": training_arguments.hashed(arguments),
    }
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARS]


def training_key(checkpoint: Checkpoint, config: str) -> str:
    """Names the training: checkpoints of one output folder and one configuration share it."""
    place = checkpoint.origin.resolve().parent
    return hashlib.sha256(f"{place}\n{config}".encode()).hexdigest()[:_HASH_CHARS]
