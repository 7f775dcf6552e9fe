"""What `relay status` says of the promoter's life, and what `--check` calls wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline import status_command
from pipeline.status import overview
from pipeline.what_is_wrong import what_is_wrong
from registry_hooks import contract
from registry_hooks.errors import DeletedExperimentError
from registry_hooks.memory import MemoryRegistry
from tests.status.views import NAME, NOW, SETTINGS, beat, heartbeat, printed, registry_with


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "promoter: rests since 2026-03-04 05:00:00 UTC: nothing new (ada@brain, process 7)"),
        (
            {"state": "cannot", "because": "MLflow is away"},
            "promoter: cannot go on since 2026-03-04 05:00:00 UTC: MLflow",
        ),
        ({"seen_s_ago": 480}, "promoter: SILENT for 480 s (ada@brain, process 7); the last that it wrote: nothing new"),
        ({"seen_s_ago": 480, "state": "stopped"}, "promoter: was stopped since"),
        ({"state": None, "since": None, "because": ""}, "promoter: lives (ada@brain, process 7)"),
    ],
)
def test_whether_the_promoter_lives_and_why_it_rests_is_told(changes: dict[str, Any], line: str) -> None:
    registry = registry_with("judged")
    beat(registry, **changes)

    assert line in printed(overview(registry, SETTINGS, now=NOW))


def test_without_any_promoter_its_absence_is_told() -> None:
    assert "promoter: none has written into the registry yet" in printed(overview(registry_with(""), SETTINGS, now=NOW))


def wrong(registry: MemoryRegistry) -> list[str]:
    return what_is_wrong(overview(registry, SETTINGS, now=NOW), max_behind_s=10, silent_after_s=30)


def test_a_monitor_is_told_what_is_wrong_and_nothing_when_all_is_well(live_server: str) -> None:
    registry = registry_with("judged")
    registry.set_model_tag(NAME, contract.server_tag("b-stopped"), heartbeat("http://127.0.0.1:1", stopped=True))
    beat(registry)
    well = wrong(registry)
    registry.set_model_tag(NAME, contract.server_tag("a-silent"), heartbeat("http://127.0.0.1:1"))
    registry.set_model_tag(NAME, contract.server_tag("c-behind"), heartbeat(live_server))
    beat(registry, seen_s_ago=480, alerts=["version 3 cannot be scored"])
    registry.delete_alias(NAME, "Production")

    assert well == []
    assert [sentence.partition(" for ")[0] for sentence in wrong(registry)] == [
        "the alias Production names no version",
        "promoter: SILENT",
        "version 3 cannot be scored",
        "server a-silent does not answer, and wrote 40 s ago",
        "server c-behind is behind",
    ]


def test_the_exit_code_of_a_check_is_three_when_something_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    registry = registry_with("judged")
    codes = [status_command.print_status(registry, SETTINGS, check=check) for check in (False, True)]

    assert codes == [0, 3]
    assert "wrong: promoter: none has written" in capsys.readouterr().err


def test_a_version_in_the_stage_of_the_aliass_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = registry_with("", "")
    registry.delete_alias(NAME, "Production")
    listed = registry.newest_versions
    monkeypatch.setattr(
        registry, "newest_versions", lambda *a: [replace(one, stage="Production") for one in listed(*a)[:1]]
    )
    text = printed(overview(registry, SETTINGS, now=NOW))
    registry.set_alias(NAME, "Production", 2)

    assert "version 2 is in the stage 'Production', which is no alias" in text
    assert overview(registry, SETTINGS, now=NOW).notes == []


def test_a_deleted_experiment_is_part_of_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def deleted(experiment: str, limit: int) -> Any:
        raise DeletedExperimentError(f"{experiment} is deleted: restore it", experiment=experiment)

    registry = registry_with("judged")
    monkeypatch.setattr(registry, "latest_runs", deleted)

    assert "note: tiny/decisions is deleted: restore it" in printed(overview(registry, SETTINGS, now=NOW))
