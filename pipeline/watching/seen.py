"""Which saves were taken already: a small file, so that a restart neither hashes nor publishes them again.

Only to save work: without it a save is published again, which the registry finds out and nothing is made.
"""

from __future__ import annotations

import json
from pathlib import Path

MAX_REMEMBERED = 10_000


class SeenSaves:
    """Fingerprints of saves by the path of their folder. Its user holds a lock while it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def has(self, name: str, fingerprint: str) -> bool:
        """Whether this very save was taken."""
        return self._read().get(name) == fingerprint

    def remember(self, name: str, fingerprint: str) -> None:
        """It is taken now; an earlier save in that place is forgotten."""
        others = {key: value for key, value in self._read().items() if key != name}
        kept = list(others.items())[-(MAX_REMEMBERED - 1) :]
        self._write({**dict(kept), name: fingerprint})

    def forget(self, *names: str) -> None:
        """They may be taken again."""
        self._write({key: value for key, value in self._read().items() if key not in names})

    def _read(self) -> dict[str, str]:
        try:
            document = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return {str(k): str(v) for k, v in document.items()} if isinstance(document, dict) else {}

    def _write(self, saves: dict[str, str]) -> None:
        temporary = self._path.with_name(f"{self._path.name}.tmp")
        temporary.write_text(json.dumps(saves, indent=1), encoding="utf-8")
        temporary.replace(self._path)  # not flushed: losing it costs work, flushing it costs the trainer's time
