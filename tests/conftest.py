"""Real servers and a real checkpoint for every test folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.stack.local import LocalStack, local_stack
from pipeline.stack.s3_server import s3_binary
from registry_hooks.settings import Settings, StackSettings


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"S3 server: {s3_binary()[0]}")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """MLflow and S3 on free ports, started when a test first asks for them."""
    data_dir = tmp_path_factory.mktemp("stack")
    settings = Settings(stack=StackSettings(data_dir=data_dir, mlflow_port=0, s3_port=0))
    with local_stack(settings) as running:
        yield running


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the HF Trainer writes it, of an untrained model; tests that change it copy it first."""
    from pipeline.demo.world import save_untrained

    folder = tmp_path_factory.mktemp("training") / "checkpoint-20"
    save_untrained(folder, seed=0)
    state = {
        "best_global_step": None,
        "best_metric": None,
        "best_model_checkpoint": None,
        "epoch": 1.0,
        "eval_steps": 20,
        "global_step": 20,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": [
            {"epoch": 0.5, "grad_norm": 1.21, "learning_rate": 0.001, "loss": 5.61, "step": 10},
            {"epoch": 1.0, "grad_norm": 0.98, "learning_rate": 0.0005, "loss": 5.32, "step": 20},
            {"epoch": 1.0, "eval_loss": 5.25, "eval_runtime": 0.42, "eval_samples_per_second": 152.0, "step": 20},
        ],
        "logging_steps": 10,
        "max_steps": 20,
        "num_train_epochs": 1,
        "save_steps": 20,
        "train_batch_size": 8,
    }
    (folder / "trainer_state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
    return folder
