"""The MLflow server of the local stack: SQLite below the data folder, artifacts straight to S3."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path

from pipeline.stack.child import Program
from registry_hooks.errors import UserError

HOST = "127.0.0.1"


def mlflow_program(*, data_dir: Path, port: int, artifact_root: str, env: Mapping[str, str]) -> Program:
    """The command that serves MLflow on loopback.

    Args:
        data_dir: Holds the database.
        port: TCP port.
        artifact_root: `s3://bucket/prefix`, where new experiments keep their artifacts.
        env: Where S3 is and its keys, for the pages of the UI that show artifacts.

    Raises:
        UserError: Only the client half of MLflow is installed.
    """
    if importlib.util.find_spec("mlflow") is None or importlib.util.find_spec("sqlalchemy") is None:
        raise UserError("the MLflow server is not installed, nothing was started: pip install 'relay-cd[stack]'")
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{(data_dir / 'mlflow.db').resolve()}"]
    command += ["--no-serve-artifacts", "--default-artifact-root", artifact_root]
    command += ["--uvicorn-opts", "--log-level warning"]  # one line per poll of the alias would fill the disk
    # Eight job consumers and 2.7 GB of memory are for features that nobody here uses.
    switches = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    return Program(name="mlflow", command=command, env={**env, **switches}, cwd=data_dir)
