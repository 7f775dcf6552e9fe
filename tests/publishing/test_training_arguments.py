"""Which arguments of a training make a model another one, and what people see of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from pipeline.checkpoint import inspect
from pipeline.lineage import config_hash
from pipeline.trainer_state import TrainerState
from pipeline.training_arguments import MAX_SHOWN, arguments_of, shown


def told(folder: Path, **changes: Any) -> dict[str, Any]:
    """As a training with the HF Trainer tells them."""
    document: dict[str, Any] = json.loads(
        TrainingArguments(**{"output_dir": str(folder), "report_to": [], "use_cpu": True, **changes}).to_json_string()
    )
    return document


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 1e-3},
        {"per_device_train_batch_size": 3},
        {"gradient_accumulation_steps": 2},
        {"seed": 7},
        {"lr_scheduler_type": "cosine"},
        {"warmup_steps": 10},
        {"weight_decay": 0.1},
        {"bf16": True},
    ],
)
def test_another_training_has_another_hash(tiny_checkpoint: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    checkpoint = inspect(tiny_checkpoint)

    assert config_hash(checkpoint, told(tmp_path)) != config_hash(checkpoint, told(tmp_path, **changes))


def test_a_training_that_goes_on_elsewhere_and_logs_and_saves_otherwise_has_the_same_hash(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = inspect(tiny_checkpoint)
    other = told(
        tmp_path / "other",
        max_steps=12,
        num_train_epochs=9,
        logging_steps=1,
        logging_first_step=True,
        save_steps=2,
        save_total_limit=1,
        eval_strategy="steps",
        eval_steps=4,
        per_device_eval_batch_size=64,
        run_name="again",
        dataloader_num_workers=2,
        hub_token="secret",
        log_level="info",
        disable_tqdm=True,
    )

    assert config_hash(checkpoint, told(tmp_path)) == config_hash(checkpoint, other)


def test_a_new_argument_that_is_off_changes_no_hash(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint, arguments = inspect(tiny_checkpoint), told(tmp_path)

    assert config_hash(checkpoint, arguments) == config_hash(checkpoint, arguments | {"use_new": False, "newer": None})


def test_people_see_what_they_compare_and_no_secret_or_path(tmp_path: Path) -> None:
    seen = shown(told(tmp_path, learning_rate=5e-5, max_steps=12, hub_token="secret", lr_scheduler_type="cosine"))
    wanted = ("learning_rate", "per_device_train_batch_size", "seed", "lr_scheduler_type", "max_steps")

    assert [seen[key] for key in wanted] == ["5e-05", "8", "42", "cosine", "12"]
    assert not {"output_dir", "hub_token", "logging_steps"} & seen.keys()
    assert "secret" not in str(seen)


def test_what_is_shown_is_bounded() -> None:
    seen = shown({f"argument_{n}": "x" * 1000 for n in range(500)})

    assert len(seen) == MAX_SHOWN
    assert {len(value) for value in seen.values()} == {250}


def test_a_file_beside_the_checkpoint_comes_before_what_the_training_told_and_that_before_the_state(
    tmp_path: Path,
) -> None:
    state = TrainerState(arguments={"train_batch_size": "8"})
    known = [arguments_of(tmp_path, state, None), arguments_of(tmp_path, state, {"learning_rate": 1})]
    (tmp_path / "training_args.json").write_text('{"learning_rate": 2}')

    assert known == [{"train_batch_size": "8"}, {"learning_rate": 1}]
    assert arguments_of(tmp_path, state, {"learning_rate": 1}) == {"learning_rate": 2}
