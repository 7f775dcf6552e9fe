"""The key pair of the local S3 server."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from registry_hooks.errors import UserError
from registry_hooks.s3_store import Credentials

FILE = "s3-credentials.json"


def local_credentials(data_dir: Path) -> Credentials:
    """The pair of `AWS_*` where the user set one, else one that is made once per `data_dir` and kept there (0600).

    A session token says that the pair in the environment is a temporary one of AWS's own: that is left alone.
    """
    key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if key and secret and not os.environ.get("AWS_SESSION_TOKEN"):
        return Credentials(access_key_id=key, secret_access_key=secret)
    path = data_dir / FILE
    if not path.exists():
        _write(
            path, Credentials(access_key_id="relay-" + secrets.token_hex(6), secret_access_key=secrets.token_hex(20))
        )
    return _read(path)


def _write(path: Path, credentials: Credentials) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "access_key_id": credentials.access_key_id,
        "secret_access_key": credentials.secret_access_key,
    }
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(document, file)


def _read(path: Path) -> Credentials:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Credentials(
            access_key_id=str(document["access_key_id"]), secret_access_key=str(document["secret_access_key"])
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it, a new one is made") from error
