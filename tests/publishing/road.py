"""The stack, and a user at a terminal who publishes on it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.stack.local import LocalStack
from registry_hooks.errors import UnknownModelError
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.records import ModelVersion
from registry_hooks.s3_store import S3Store

CLI = [sys.executable, "-c", "from pipeline.cli import main; main()", "publish"]
DEADLINE_S = 90.0


@dataclass(frozen=True)
class Road:
    """The stack, and a user's terminal on it."""

    stack: LocalStack
    registry: MlflowRegistry
    store: S3Store

    def environ(self, name: str, **changes: str) -> dict[str, str]:
        return {**os.environ, **self.stack.env, "RELAY_REGISTRY__NAME": name, **changes}

    def start(self, name: str, folder: Path, *options: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*CLI, str(folder), *options],
            env=self.environ(name, **environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def publish(self, name: str, folder: Path, *options: str, **environ: str) -> tuple[int, str, str]:
        process = self.start(name, folder, *options, **environ)
        out, err = process.communicate(timeout=DEADLINE_S)
        return process.returncode, out, err

    def files(self, version: ModelVersion) -> dict[str, int]:
        return {item.key: item.size_bytes for item in self.store.list_objects(version.artifact_uri)}

    def read(self, version: ModelVersion, path: str) -> bytes:
        return self.store.read(f"{version.artifact_uri}/{path}", 10_000_000)

    def num_versions(self, name: str) -> int:
        number = 0
        while True:
            try:
                self.registry.get_version(name, number + 1)
            except UnknownModelError:
                return number
            number += 1
