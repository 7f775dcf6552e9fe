"""`relay up`: MLflow, S3, the promoter and Relay's server on this box, until Ctrl-C."""

from __future__ import annotations

import importlib.util
import json
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, SecretStr
from rich.console import Console
from rich.table import Table

from pipeline.stack import ports
from pipeline.stack.child import Child, Program
from pipeline.stack.keeping_up import KeepingUp
from pipeline.stack.local import LocalStack, answers, local_stack, running, write_env_file
from registry_hooks.errors import UserError
from registry_hooks.settings import ENV_PREFIX, Settings

_SERVER_GRACE_S = 20.0
_PROMOTER_GRACE_S = 10.0
_WATCH_S = 0.5
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - where to knock, not where to bind


def run(settings: Settings) -> int:
    """Start everything, say where it is, start again what ends by itself; stop everything at Ctrl-C or SIGTERM.

    Returns:
        Exit code: 0.

    Raises:
        UserError: A port is in use or a program is missing; nothing is left running.
        StackError: A program did not become ready; nothing is left running.
    """
    console = Console(stderr=True)
    port = ports.take(settings.serve.port, host=settings.serve.host, setting="serve.port")
    data_dir = settings.stack.data_dir.resolve()
    # Both explicitly: a shell starts background jobs with SIGINT ignored.
    before = {n: signal.signal(n, signal.default_int_handler) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        console.print("starting MLflow, S3, the promoter and the server …")
        with (
            local_stack(settings) as stack,
            running(server_program(settings, stack, port), data_dir) as server,
            running(promoter_program(settings, stack), data_dir) as promoter,
        ):
            url = f"http://{_EVERY_ADDRESS.get(settings.serve.host, settings.serve.host)}:{port}"
            server.wait_until(answers(f"{url}/health"), timeout_s=settings.stack.start_timeout_s)
            with _env_file(stack, data_dir) as env_file:
                console.print(_table(stack, server, promoter, url))
                console.print(
                    f"in other terminals: [bold]source {shlex.quote(str(env_file))}[/bold]   Ctrl-C stops it all",
                    soft_wrap=True,
                )
                _keep_up((*stack.children, server, promoter), console)
    except KeyboardInterrupt:
        console.print("stopped")
        return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def server_program(settings: Settings, stack: LocalStack, port: int) -> Program:
    """The gateway, told of these very settings and of this stack."""
    told = {**_told(settings, stack), f"{ENV_PREFIX}SERVE__PORT": str(port)}
    return Program(name="server", command=[sys.executable, "-P", "-m", "server"], env=told, grace_s=_SERVER_GRACE_S)


def promoter_program(settings: Settings, stack: LocalStack) -> Program:
    """The promoter, told of these very settings and of this stack.

    Raises:
        UserError: What it needs is not installed.
    """
    for package in ("apscheduler", "scipy"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"the promoter needs {package}, nothing is left running: pip install 'relay-cd[promote]'")
    command = [sys.executable, "-P", "-m", "pipeline.promotion"]
    return Program(name="promoter", command=command, env=_told(settings, stack), grace_s=_PROMOTER_GRACE_S)


def _told(settings: Settings, stack: LocalStack) -> dict[str, str]:
    return {
        **environment(settings),
        **stack.env,
        f"{ENV_PREFIX}REGISTRY__TRACKING_URI": stack.tracking_uri,
        f"{ENV_PREFIX}STORE__ENDPOINT_URL": stack.s3_endpoint_url,
    }


def environment(settings: Settings) -> dict[str, str]:
    """The settings that somebody set, as `RELAY_SECTION__KEY`: a child that reads them has the same ones."""
    sections: dict[str, BaseModel] = {name: getattr(settings, name) for name in type(settings).model_fields}
    return {
        f"{ENV_PREFIX}{name}__{key}".upper(): _as_text(getattr(section, key))
        for name, section in sections.items()
        for key in section.model_fields_set
        if getattr(section, key) is not None
    }


def _as_text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return json.dumps(value) if isinstance(value, (tuple, list)) else str(value)


@contextmanager
def _env_file(stack: LocalStack, data_dir: Path) -> Iterator[Path]:
    path = write_env_file(stack, data_dir)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _keep_up(children: tuple[Child, ...], console: Console) -> NoReturn:
    """Start again what ends by itself, until Ctrl-C."""
    keeping = KeepingUp(children, lambda text: console.print(text, markup=False, soft_wrap=True))
    while True:
        keeping.look()
        time.sleep(_WATCH_S)


def _table(stack: LocalStack, server: Child, promoter: Child, url: str) -> Table:
    table = Table(title="Relay is up")
    for heading in ("what", "where", "log"):
        table.add_column(heading, overflow="fold")  # a path that was cut cannot be used
    table.add_row("MLflow", f"{stack.tracking_uri}/#/models?workflowType=machine_learning", str(stack.logs["mlflow"]))
    table.add_row(f"S3 ({stack.s3_kind})", f"{stack.s3_endpoint_url} bucket {stack.bucket}", str(stack.logs["s3"]))
    table.add_row("server", f"{url}/models/info", str(server.log))
    table.add_row("promoter", "relay history", str(promoter.log))
    return table
