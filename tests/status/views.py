"""A registry as `relay status` finds it, and what it prints."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console

from pipeline.status import Overview, show
from registry_hooks import contract
from registry_hooks.memory import MemoryRegistry
from registry_hooks.records import RunRecord
from registry_hooks.settings import RegistrySettings, Settings

NAME = "tiny"

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)

SETTINGS = Settings(registry=RegistrySettings(name=NAME))


def registry_with(*states: str) -> MemoryRegistry:
    """A registry with a version for each state, at steps 100, 200 and so on; Production names the first.

    `judged` is an admitted one that took part in a decision; `admitted` alone waits for one.
    """
    registry = MemoryRegistry()
    for number, state in enumerate(states, start=1):
        tags = {contract.TAG_STEP: str(100 * number), contract.TAG_SAVED_AT: f"2026-03-04T05:0{number}:00+00:00"}
        if state:
            tags[contract.TAG_STATE] = "admitted" if state == "judged" else state
        if state == "judged":
            tags[contract.TAG_JUDGED] = "0" * 32
        registry.add_version(NAME, artifact_uri="s3://x/y", tags=tags)
    registry.set_alias(NAME, "Production", 1)
    return registry


def event(experiment: str, run_name: str, because: str) -> RunRecord:
    return RunRecord(
        experiment=experiment,
        run_name=run_name,
        params={},
        metrics={"seconds/fetch": 1.5, "seconds/start": 2.0, "bytes": 9.0},
        tags={contract.TAG_BECAUSE: because},
        started_at=NOW,
        ended_at=NOW + timedelta(seconds=4),
    )


def heartbeat(url: str, **changes: Any) -> str:
    facts = {"serving": 1, "step": 100, "url": url, "seen": (NOW - timedelta(seconds=40)).isoformat(), "because": "old"}
    return json.dumps(facts | changes)


def printed(view: Overview, width: int = 160) -> str:
    output = io.StringIO()
    show(view, Console(file=output, width=width))
    return output.getvalue()


def beat(registry: MemoryRegistry, *, seen_s_ago: float = 10, **changes: Any) -> None:
    facts = {
        "who": "ada@brain",
        "pid": 7,
        "seen": (NOW - timedelta(seconds=seen_s_ago)).isoformat(),
        "state": "rests",
        "since": "2026-03-04T05:00:00+00:00",
        "because": "nothing new",
        "alerts": [],
    }
    registry.set_model_tag(NAME, contract.TAG_PROMOTER, json.dumps(facts | changes))
