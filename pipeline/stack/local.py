"""MLflow and an S3 server, started together, waited for, and stopped."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.stack import ports
from pipeline.stack.child import Child, Program
from pipeline.stack.credentials import local_credentials
from pipeline.stack.mlflow_server import mlflow_program
from pipeline.stack.s3_server import HOST, s3_binary, s3_program
from registry_hooks.errors import StoreUnavailableError
from registry_hooks.s3_store import Credentials, S3Store
from registry_hooks.settings import Settings, StoreSettings

ENV_FILE = "stack.env"
_PROBE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalStack:
    """What runs, and how to reach it.

    Attributes:
        s3_kind: `minio` or `rclone`.
        env: What clients need in their environment: where MLflow and S3 are, and the keys.
        children: The programs: `s3`, `mlflow`.
    """

    tracking_uri: str
    s3_endpoint_url: str
    bucket: str
    s3_kind: str
    env: Mapping[str, str] = field(repr=False)
    children: tuple[Child, ...]

    @property
    def logs(self) -> dict[str, Path]:
        """The log file of each program."""
        return {child.name: child.log for child in self.children}

    @property
    def dead(self) -> Child | None:
        """A program that ended by itself, if one did."""
        return next((child for child in self.children if not child.alive), None)


@contextmanager
def local_stack(settings: Settings) -> Iterator[LocalStack]:
    """Run MLflow and S3 on loopback below `stack.data_dir`; both are ready inside, and gone afterwards.

    Raises:
        PortInUseError: Somebody listens on a port that was asked for.
        UserError: A program is not installed.
        StackError: A program did not become ready.
    """
    stack = settings.stack
    data_dir = stack.data_dir.resolve()
    kind, binary = s3_binary()
    s3_port = ports.take(stack.s3_port, host=HOST, setting="stack.s3_port")
    mlflow_port = ports.take(stack.mlflow_port, host=HOST, setting="stack.mlflow_port")
    credentials = local_credentials(data_dir)
    endpoint, tracking_uri = f"http://{HOST}:{s3_port}", f"http://{HOST}:{mlflow_port}"
    env = _client_env(tracking_uri, endpoint, credentials)
    s3 = s3_program(kind, binary, data=data_dir / f"s3-{kind}", port=s3_port, credentials=credentials)
    mlflow = mlflow_program(data_dir=data_dir, port=mlflow_port, artifact_root=f"s3://{stack.bucket}/mlflow", env=env)
    with ExitStack() as until_the_end:
        children = tuple(until_the_end.enter_context(running(program, data_dir)) for program in (s3, mlflow))
        children[0].wait_until(_bucket_exists(s3_port, credentials, stack.bucket), timeout_s=stack.start_timeout_s)
        children[1].wait_until(answers(f"{tracking_uri}/health"), timeout_s=stack.start_timeout_s)
        yield LocalStack(
            tracking_uri=tracking_uri,
            s3_endpoint_url=endpoint,
            bucket=stack.bucket,
            s3_kind=kind,
            env=env,
            children=children,
        )


def write_env_file(stack: LocalStack, data_dir: Path) -> Path:
    """A file to `source` in another terminal (0600: it holds the keys of the local S3)."""
    path = data_dir.resolve() / ENV_FILE
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.writelines(f"export {key}={shlex.quote(value)}\n" for key, value in sorted(stack.env.items()))
    return path


def answers(url: str) -> Callable[[], bool]:
    """A question for `Child.wait_until`: does this plain-http `url` answer with status 200?"""
    parts = urlsplit(url)

    def ask() -> bool:
        connection = HTTPConnection(parts.hostname or HOST, parts.port, timeout=_PROBE_TIMEOUT_S)
        try:
            connection.request("GET", parts.path)
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    return ask


@contextmanager
def running(program: Program, data_dir: Path) -> Iterator[Child]:
    """A child whose log is `logs/NAME.log` below `data_dir`."""
    child = Child(program, data_dir / "logs" / f"{program.name}.log")
    try:
        yield child
    finally:
        child.stop()


def _bucket_exists(port: int, credentials: Credentials, bucket: str) -> Callable[[], bool]:
    endpoint = f"http://{HOST}:{port}"
    settings = StoreSettings(connect_timeout_s=_PROBE_TIMEOUT_S, read_timeout_s=_PROBE_TIMEOUT_S)
    store = S3Store(settings, endpoint, credentials=credentials)

    def ask() -> bool:
        try:
            socket.create_connection((HOST, port), _PROBE_TIMEOUT_S).close()  # botocore would back off while it starts
            store.ensure_bucket(bucket)
        except (OSError, StoreUnavailableError):
            return False
        return True

    return ask


def _client_env(tracking_uri: str, endpoint: str, credentials: Credentials) -> dict[str, str]:
    env = {
        "MLFLOW_TRACKING_URI": tracking_uri,
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": credentials.access_key_id,
        "AWS_SECRET_ACCESS_KEY": credentials.secret_access_key,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    if os.environ.get("AWS_SESSION_TOKEN"):
        env["AWS_SESSION_TOKEN"] = ""  # it belongs to another key pair
    return env
