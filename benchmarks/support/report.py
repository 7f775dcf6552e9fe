"""Writes what a benchmark measured: `results/NAME.json` for programs, `results/NAME.md` for people."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks/results"
_PACKAGES = ("relay-cd", "mlflow", "torch", "transformers", "boto3", "aiohttp", "fastapi")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing that was measured in every round; `peer` is empty where there is none."""

    what: str
    ours: Sequence[float]
    peer: Sequence[float] = ()
    unit: str = "s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole benchmark; `lines` tell in words what was compared."""

    name: str
    title: str
    lines: Sequence[str]
    rows: Sequence[Row]

    def write(self, folder: Path = RESULTS) -> None:
        """Write both files, and print the table."""
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"hardware": hardware(), "commit": commit(), "date": datetime.now(UTC).isoformat(timespec="seconds")}
        versions = {"python": platform.python_version(), **{p: _version(p) for p in _PACKAGES}}
        document = {**facts, "versions": versions, "notes": list(self.lines), "rows": [_entry(r) for r in self.rows]}
        (folder / f"{self.name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        table = "\n".join(_table(self.rows))
        origin = f"{facts['hardware']}; commit {facts['commit'][:12]}; {facts['date']}; " + ", ".join(
            f"{package} {version}" for package, version in versions.items()
        )
        text = "\n\n".join([f"# {self.title}", *self.lines, table, origin])
        (folder / f"{self.name}.md").write_text(text + "\n", encoding="utf-8")
        print(text)


# Two processors of one name may differ in it, and in what the linear layers gain from another layout.
_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}


def hardware() -> str:
    """Processor, cores, memory and accelerator of this machine."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        text = cpuinfo.read_text()
        names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
        width = next((name for flag, name in _VECTORS.items() if flag in text.split()), "no AVX2")
        model = f"{names[0]} with {width}" if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, {platform.system()}{_gpu()}"


def commit(root: Path = ROOT) -> str:
    """The commit of a checkout, of this one by default; `-dirty` behind it when its work tree differs from it."""
    asked = [["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]]
    head, changes = (
        subprocess.run(["git", "-C", str(root), *a], capture_output=True, text=True, check=False).stdout.strip()
        for a in asked
    )
    return f"{head}{'-dirty' if changes else ''}"


def _gpu() -> str:
    try:
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        names = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=20).stdout.split("\n")
    except (OSError, subprocess.TimeoutExpired):
        return ", no GPU"
    return f", {names[0]}" if names[0] else ", no GPU"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _entry(row: Row) -> dict[str, object]:
    return {
        "what": row.what,
        "ours": round(statistics.median(row.ours), 4) if row.ours else None,
        "peer": round(statistics.median(row.peer), 4) if row.peer else None,
        "unit": row.unit,
        "spread": {"ours": _spread(row.ours), "peer": _spread(row.peer)},
    }


def _spread(values: Sequence[float]) -> list[float] | None:
    return [round(min(values), 4), round(max(values), 4)] if values else None


def _table(rows: Sequence[Row]) -> list[str]:
    lines = ["| what | ours | plain | unit | ours / plain |", "|---|---|---|---|---|"]
    for row in rows:
        ours, peer = _shown(row.ours, row.unit), _shown(row.peer, row.unit)
        both = bool(row.ours and row.peer and statistics.median(row.peer))
        ratio = f"{statistics.median(row.ours) / statistics.median(row.peer):.2f}" if both else ""
        lines.append(f"| {row.what} | {ours} | {peer} | {row.unit} | {ratio} |")
    return lines


def _shown(values: Sequence[float], unit: str) -> str:
    if not values:
        return ""
    digits = 0 if unit == "bytes" else 2
    low, high = min(values), max(values)
    spread = f" ({low:.{digits}f}-{high:.{digits}f})" if len(values) > 1 and low != high else ""
    return f"{statistics.median(values):.{digits}f}{spread}"
