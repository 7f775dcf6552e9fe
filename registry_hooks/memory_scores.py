"""The in-memory twin of the scores in MLflow, for tests of what reads and writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from registry_hooks.errors import UnknownModelError, UserError
from registry_hooks.memory import MemoryRegistry, as_listed
from registry_hooks.records import ModelVersion, ScoreEntry


class MemoryScores:
    """`ScoreBook` beside a registry in memory, which must answer when this is to.

    Attributes:
        metrics: Of each run, by its id, what was recorded last.
    """

    def __init__(self, registry: MemoryRegistry, *, artifact_root: str = "s3://memory/runs") -> None:
        self.metrics: dict[str, dict[str, float]] = {}
        self._registry = registry
        self._root = artifact_root
        self._entries: dict[str, dict[str, ScoreEntry]] = {}

    def artifact_root(self, version: ModelVersion) -> str:
        """Where files of the version's run lie."""
        return f"{self._root}/{self._run_id(version)}/artifacts"

    def record_scores(self, version: ModelVersion, entry: ScoreEntry, metrics: Mapping[str, float]) -> None:
        """Metrics and entry at the version's run; replaces that of the same set."""
        if not all(math.isfinite(value) for value in metrics.values()):
            raise ValueError(f"metrics of {version.label} are not finite: nothing was written")
        run_id = self._run_id(version)
        self.metrics.setdefault(run_id, {}).update(metrics)
        self._entries.setdefault(run_id, {})[entry.test_set_digest] = entry

    def score_entries(self, version: ModelVersion) -> Sequence[ScoreEntry]:
        """What the version was scored on, sorted by digest."""
        if version.run_id is None:
            return ()
        return tuple(entry for _, entry in sorted(self._entries.get(self._run_id(version), {}).items()))

    def newest_versions(self, name: str, limit: int) -> Sequence[ModelVersion]:
        """The versions with the highest numbers, highest first."""
        found: list[ModelVersion] = []
        while True:
            try:
                version = self._registry.get_version(name, len(found) + 1)  # nothing deletes a version here
                found.append(as_listed(version))
            except UnknownModelError:
                return tuple(reversed(found))[:limit]

    def _run_id(self, version: ModelVersion) -> str:
        if version.run_id is None:
            raise UserError(f"{version.label} has no run: nothing was recorded")
        self._registry.run_metrics(version.run_id)  # a registry that is down, or that lacks the run, says so
        return version.run_id
