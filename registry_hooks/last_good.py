"""What a server needs to know to start while registry and store are both away."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from registry_hooks.durable import write_atomically
from registry_hooks.records import ModelVersion

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LastGood:
    """The version that was served last, and is whole in the cache.

    Attributes:
        version: As the registry showed it.
        alias: The alias that named it.
        digest: Of its manifest: the name of its checkpoint in the cache.
        attested: Whether that manifest came from the registry.
        score: The score metric of its run, if it was known.
    """

    version: ModelVersion
    alias: str
    digest: str
    attested: bool
    score: float | None = None


def remember(cache_dir: Path, name: str, record: LastGood) -> None:
    """Keep `record` for registered model `name`, in place of an earlier one."""
    path = _path(cache_dir, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"format": FORMAT, **_as_document(record)}
    write_atomically(path, json.dumps(document, indent=1).encode() + b"\n")


def recall(cache_dir: Path, name: str) -> LastGood | None:
    """The record of registered model `name`; None when there is none that can be read."""
    try:
        document: Any = json.loads(_path(cache_dir, name).read_bytes())
        if document.pop("format") != FORMAT:
            return None
        version = document.pop("version")
        copied_tags = frozenset(version.pop("copied_tags", ()))
        version = ModelVersion(**version, copied_tags=copied_tags)
        return LastGood(version=version, **document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def digests(cache_dir: Path) -> set[str]:
    """Of every model's last good version: several servers may share one cache, one of them down at the moment."""
    found: set[str] = set()
    for path in _path(cache_dir, "x").parent.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found.add(str(json.loads(path.read_bytes())["digest"]))
    return found


def _as_document(record: LastGood) -> dict[str, Any]:
    version = {f.name: getattr(record.version, f.name) for f in dataclasses.fields(record.version)}
    version |= {"tags": dict(record.version.tags), "copied_tags": sorted(record.version.copied_tags)}
    return {
        "version": version,
        "alias": record.alias,
        "digest": record.digest,
        "attested": record.attested,
        "score": record.score,
    }


def _path(cache_dir: Path, name: str) -> Path:
    return cache_dir / "last_good" / f"{quote(name, safe='')}.json"
