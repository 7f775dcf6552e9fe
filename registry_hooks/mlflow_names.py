"""Names that come from outside, as MLflow takes them. Pure; standard library only.

A trainer may call a metric `eval_accuracy@1` and a test set may have a slice `C++ / easy`; MLflow refuses the whole
report for one such name. What it was called is on record in the run's tag `relay.renamed`.
Source: `mlflow/utils/validation.py`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

MAX_NAME_CHARS = 250
_REFUSED = re.compile(r"[^/\w.\- :]")
_DIGEST_CHARS = 8


def taken(name: str) -> str:
    """`name`, where MLflow takes it; else the nearest that it does: `_` for each character that it refuses."""
    # Parts between slashes must be such that no path means another one.
    parts = ["_" if part in ("", ".", "..") else part for part in _REFUSED.sub("_", name).split("/")]
    fitting = "/".join(parts)
    if len(fitting) <= MAX_NAME_CHARS:
        return fitting
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{fitting[: MAX_NAME_CHARS - _DIGEST_CHARS - 1].rstrip('/')}-{digest}"


def renamed(names: Iterable[str]) -> dict[str, str]:
    """For each name what MLflow is told, no two the same; a name that MLflow takes is never changed."""
    wanted = list(dict.fromkeys(names))
    chosen = {name: name for name in wanted if taken(name) == name}
    used = set(chosen)
    for name in sorted(set(wanted) - used):
        chosen[name] = _unused(taken(name), used)
        used.add(chosen[name])
    return {name: chosen[name] for name in wanted}


def changes(names: Iterable[str]) -> dict[str, str]:
    """Of those that had to be changed: what MLflow is told, and what it was called."""
    return {new: old for old, new in renamed(names).items() if new != old}


def _unused(name: str, used: set[str]) -> str:
    number, candidate = 1, name
    while candidate in used:
        number += 1
        ending = f"_{number}"
        candidate = f"{name[: MAX_NAME_CHARS - len(ending)]}{ending}"
    return candidate
