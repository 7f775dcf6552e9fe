"""What every registry must do: the MLflow adapter against a real server, and the in-memory twin, by the same tests."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta

import pytest

from registry_hooks import contract
from registry_hooks.errors import (
    RegistryUnavailableError,
    UnknownModelError,
)
from registry_hooks.memory import MemoryRegistry
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.records import RunRecord
from tests.contracts.registries import SAVED_AT, World, draft_of, publish


def test_an_alias_names_a_version_with_its_place_run_and_tags(world: World, name: str) -> None:
    draft = draft_of(name)
    place, version = publish(world, draft, {"relay.bytes": "12"})
    world.set_alias(name, "Production", version.version)

    seen = world.registry.resolve_alias(name, "Production")

    assert seen == version == world.registry.get_version(name, version.version)
    assert (seen.version, seen.status, seen.step, seen.digest) == (1, "READY", 20, draft.digest)
    assert (seen.run_id, seen.model_id, seen.artifact_uri) == (place.run_id, place.model_id, place.artifact_uri)
    assert seen.artifact_uri.startswith("s3://")
    assert not seen.artifact_uri.endswith("/")
    assert seen.tags["relay.bytes"] == "12"


def test_a_moved_alias_names_the_other_version_and_a_deleted_one_none(world: World, name: str) -> None:
    publish(world, draft_of(name, step=1))
    publish(world, draft_of(name, step=2))
    steps: list[int | None] = []
    for number in (1, 2, 1):
        world.set_alias(name, "Production", number)
        version = world.registry.resolve_alias(name, "Production")
        steps.append(version.step if version else None)
    world.delete_alias(name, "Production")

    assert steps == [1, 2, 1]
    assert world.registry.resolve_alias(name, "Production") is None
    assert world.registry.resolve_alias(name, "production") is None


def test_a_model_that_is_not_there_is_named(world: World) -> None:
    with pytest.raises(UnknownModelError):
        world.registry.resolve_alias("nobody", "Production")
    with pytest.raises(UnknownModelError):
        world.registry.model_tags("nobody")
    with pytest.raises(UnknownModelError):
        world.registry.aliases("nobody")
    with pytest.raises(UnknownModelError):
        world.registry.set_model_tag("nobody", "key", "value")


def test_a_version_that_is_not_there_is_named(world: World, name: str) -> None:
    publish(world, draft_of(name))

    with pytest.raises(UnknownModelError):
        world.registry.get_version(name, 7)
    with pytest.raises(UnknownModelError):
        world.registry.set_version_tag(name, 7, "key", "value")


def test_tags_are_set_replaced_and_removed(world: World, name: str) -> None:
    _, version = publish(world, draft_of(name))
    registry = world.registry
    registry.set_version_tag(name, 1, "relay.reason", "first")
    registry.set_version_tag(name, 1, "relay.reason", "second")
    registry.set_model_tag(name, "relay.server.a", "one")
    registry.set_model_tag(name, "relay.server.b", "two")
    registry.set_model_tag(name, "relay.server.a", None)
    after_set = registry.get_version(name, 1).tags
    registry.set_version_tag(name, 1, "relay.reason", None)
    registry.set_version_tag(name, 1, "never there", None)
    registry.set_model_tag(name, "never there", None)

    assert after_set == {**version.tags, "relay.reason": "second"}
    assert registry.get_version(name, 1).tags == version.tags
    assert dict(registry.model_tags(name)) == {"relay.server.b": "two"}


def test_all_aliases_are_shown_with_their_versions(world: World, name: str) -> None:
    publish(world, draft_of(name, step=1))
    publish(world, draft_of(name, step=2))
    world.set_alias(name, "Production", 1)
    world.set_alias(name, "production", 2)

    assert dict(world.registry.aliases(name)) == {"Production": 1, "production": 2}


def test_the_newest_versions_come_first_and_whole(world: World, name: str) -> None:
    published = [publish(world, draft_of(name, step=step), {"relay.state": "admitted"})[1] for step in (10, 20, 30)]

    newest = world.registry.newest_versions(name, 2)

    assert tuple(newest) == tuple(replace(published[place], artifact_uri="") for place in (2, 1))
    assert newest[0].tags["relay.state"] == "admitted"
    assert tuple(world.registry.newest_versions("nobody", 5)) == ()


def test_an_event_is_a_run_and_the_newest_comes_first(world: World, name: str) -> None:
    experiment = contract.deployments_experiment(name)
    records = [
        RunRecord(
            experiment=experiment,
            run_name=f"reload-{number}",
            params={"version": str(number)},
            metrics={"seconds.fetch": number + 0.5},
            tags={"relay.outcome": "served"},
            failed=number == 2,
            started_at=SAVED_AT + timedelta(minutes=number),
            ended_at=SAVED_AT + timedelta(minutes=number, seconds=3),
        )
        for number in (1, 2, 3)
    ]
    ids = [world.registry.record_run(record) for record in records]
    latest = world.registry.latest_runs(experiment, 2)

    assert len(set(ids)) == 3
    assert [record.run_name for record in latest] == ["reload-3", "reload-2"]
    assert [record.failed for record in latest] == [False, True]
    assert latest[0].params == {"version": "3"}
    assert latest[0].metrics == {"seconds.fetch": 3.5}
    assert latest[0].tags["relay.outcome"] == "served"
    assert (latest[0].started_at, latest[0].ended_at) == (records[2].started_at, records[2].ended_at)
    assert world.registry.latest_runs(f"{name}/nothing", 5) == ()


def test_metrics_of_a_run_come_back_as_they_were_logged(world: World, name: str) -> None:
    odd = {"nan": math.nan, "up": math.inf, "down": -math.inf, "plain": -2.5}
    run_id = world.registry.record_run(
        RunRecord(experiment=f"{name}/odd", run_name="odd", params={}, metrics=odd, tags={})
    )
    seen = world.registry.run_metrics(run_id)

    assert math.isnan(seen["nan"])
    assert {key: seen[key] for key in ("up", "down", "plain")} == {"up": math.inf, "down": -math.inf, "plain": -2.5}


def test_an_outage_is_told_from_everything_else() -> None:
    memory = MemoryRegistry()
    memory.down = True
    nobody_listens = MlflowRegistry("http://127.0.0.1:9", timeout_s=2)

    for registry in (memory, nobody_listens):
        with pytest.raises(RegistryUnavailableError) as caught:
            registry.resolve_alias("model", "Production")
        assert caught.value.transient
