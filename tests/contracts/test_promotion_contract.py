"""What the promoter needs of a registry: the MLflow adapter against a real server, and the in-memory twin."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from registry_hooks import contract
from registry_hooks.errors import UnknownModelError
from registry_hooks.memory_promotion import MemoryPromotion
from registry_hooks.mlflow_promotion import MlflowPromotion
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.records import RunRecord


@dataclass(frozen=True)
class World:
    registry: Any
    book: Any
    name: str

    def publish(self, **tags: str) -> int:
        """A version that somebody else registered."""
        all_tags = {f"relay.{key}": value for key, value in tags.items()}
        if isinstance(self.registry, MemoryPromotion):
            return self.registry.add_version(self.name, artifact_uri="s3://b/x", tags=all_tags).version
        rest = self.registry.rest
        rest.call("POST", "/registered-models/create", body={"name": self.name}, absent=lambda code, message: True)
        pairs = [{"key": key, "value": value} for key, value in all_tags.items()]
        answer = rest.post("/model-versions/create", name=self.name, source="s3://b/x", tags=pairs)
        return int(answer["model_version"]["version"])

    def copy(self, version: int, to: str, *, of: str = "") -> int:
        """A version of another registered model, as `MlflowClient.copy_model_version` makes it."""
        name = of or self.name
        if isinstance(self.registry, MemoryPromotion):
            return self.registry.copy_version(name, version, to).version
        rest = self.registry.rest
        old = rest.get("/model-versions/get", name=name, version=str(version))["model_version"]
        rest.call("POST", "/registered-models/create", body={"name": to}, absent=lambda code, message: True)
        source = f"models:/{name}/{version}"
        answer = rest.post("/model-versions/create", name=to, source=source, tags=old["tags"])
        return int(answer["model_version"]["version"])


@pytest.fixture(params=["memory", pytest.param("mlflow", marks=pytest.mark.integration)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    name = f"it's {uuid.uuid4().hex[:8]}"
    if request.param == "memory":
        memory = MemoryPromotion()
        yield World(memory, memory, name)
        return
    registry = MlflowRegistry(request.getfixturevalue("stack").tracking_uri, timeout_s=20, write_timeout_s=60)
    yield World(registry, MlflowPromotion(registry), name)
    registry.close()


def numbers(versions: Any) -> list[int]:
    return [version.version for version in versions]


def test_versions_are_found_by_number_and_by_tag(world: World) -> None:
    for step in ("10", "20", "30"):
        world.publish(step=step, state="quarantined" if step == "20" else "admitted")

    assert numbers(world.book.versions_after(world.name, 0)) == [1, 2, 3]
    assert numbers(world.book.versions_after(world.name, 1)) == [2, 3]
    assert {version.artifact_uri for version in world.book.versions_after(world.name, 0)} == {""}
    assert world.registry.get_version(world.name, 1).artifact_uri == "s3://b/x"
    assert numbers(world.book.versions_after(world.name, 3)) == []
    assert numbers(world.book.versions_tagged(world.name, contract.TAG_STATE, "quarantined")) == [2]
    assert world.book.versions_after(world.name, 1)[0].tags["relay.step"] == "20"


def test_a_model_that_is_not_there_has_no_versions_to_list(world: World) -> None:
    with pytest.raises(UnknownModelError):
        world.book.versions_after(world.name, 0)
    assert world.book.versions_tagged(world.name, contract.TAG_STATE, "admitted") == ()


def test_an_alias_is_set_moved_and_removed_twice(world: World) -> None:
    world.publish()
    world.publish()
    world.book.set_alias(world.name, "Production", 1)
    world.book.set_alias(world.name, "Production", 2)
    moved = world.registry.aliases(world.name)
    world.book.set_alias(world.name, "Production", None)
    world.book.set_alias(world.name, "Production", None)

    assert moved == {"Production": 2}
    assert world.registry.aliases(world.name) == {}
    with pytest.raises(UnknownModelError):
        world.book.set_alias(world.name, "Production", 7)


def test_a_description_of_any_length_is_taken_and_one_of_nothing_is_refused(world: World) -> None:
    version = world.publish()
    world.book.describe_version(world.name, version, "**why** " * 2000)

    assert world.registry.get_version(world.name, version).description.startswith("**why** **why**")
    with pytest.raises(UnknownModelError):
        world.book.describe_version(world.name, version + 1, "?")


@pytest.mark.parametrize("failed", [False, True])
def test_a_run_is_an_intent_until_it_is_closed(world: World, failed: bool) -> None:
    experiment = contract.decisions_experiment(world.name)
    record = RunRecord(
        experiment=experiment,
        run_name="promote 2",
        params={"kind": "promote", "target": "2"},
        metrics={"p": 0.01},
        tags={contract.TAG_BECAUSE: "better"},
    )
    run_id = world.book.open_run(record)
    (opened,) = world.registry.latest_runs(experiment, 5)
    world.book.close_run(run_id, failed=failed, because="better, and done")
    (closed,) = world.registry.latest_runs(experiment, 5)

    assert (opened.run_id, opened.is_open, opened.failed) == (run_id, True, False)
    assert (closed.run_id, closed.is_open, closed.failed) == (run_id, False, failed)
    assert closed.tags[contract.TAG_BECAUSE] == "better, and done"
    assert closed.params == record.params
    assert closed.metrics == record.metrics


def test_runs_are_found_by_what_they_say_and_by_how_they_ended(world: World) -> None:
    experiment = contract.decisions_experiment(world.name)

    def entry(second: int, **params: str) -> RunRecord:
        started = datetime(2026, 5, 1, 0, 0, second, tzinfo=UTC)
        tags = {contract.TAG_BECAUSE: ""}
        return RunRecord(
            experiment=experiment, run_name=str(second), params=params, metrics={}, tags=tags, started_at=started
        )

    def found(status: Any = None, limit: int = 9, **params: str | None) -> list[str]:
        return [run.run_name for run in world.book.find_runs(experiment, limit=limit, params=params, status=status)]

    nothing_yet = found()
    world.registry.record_run(entry(1, kind="promote"))
    world.registry.record_run(entry(2, kind="promote", moves="it's"))
    world.registry.record_run(entry(3, kind="keep"))
    world.book.open_run(entry(4, kind="promote"))
    world.book.close_run(world.book.open_run(entry(5, kind="promote")), failed=True, because="void")

    assert (nothing_yet, found()) == ([], ["5", "4", "3", "2", "1"])
    assert (found(limit=1, kind="promote"), found("FINISHED", 1, kind="promote")) == (["5"], ["2"])
    assert (found("RUNNING"), found(moves="it's"), found("FINISHED", moves=None)) == (["4"], ["2"], ["3", "1"])
    assert found("FINISHED", kind="promote", moves=None) == ["1"]


def test_runs_are_ordered_by_when_they_say_they_were_begun(world: World) -> None:
    experiment, noon = contract.decisions_experiment(world.name), datetime(2026, 1, 1, 12, tzinfo=UTC)
    for name, minutes in (("first", 90), ("second", 0), ("third", 30)):
        record = RunRecord(experiment=experiment, run_name=name, params={}, metrics={}, tags={})
        world.registry.record_run(replace(record, started_at=noon + timedelta(minutes=minutes, microseconds=1400)))

    found = world.registry.latest_runs(experiment, 5)

    assert [run.run_name for run in found] == ["first", "third", "second"]
    assert found[2].started_at == noon + timedelta(milliseconds=1)


def test_a_run_tells_all_that_was_logged_and_one_that_is_gone_is_named(world: World) -> None:
    record = RunRecord(
        experiment=f"{world.name}/runs", run_name="r", params={"eval_step": "5"}, metrics={"a": 1.5}, tags={"t": "x"}
    )
    found = world.registry.get_run(world.registry.record_run(record))

    assert (found.params, found.metrics, found.tags["t"]) == ({"eval_step": "5"}, {"a": 1.5}, "x")
    with pytest.raises(UnknownModelError):
        world.registry.get_run("0" * 32)


def test_what_was_said_of_a_version_counts_for_no_copy_of_it(world: World) -> None:
    world.publish(manifest_sha256="d" * 64, state="quarantined", judged="r", tries="{}", **{"refused.box": "no"})
    copy_name = f"{world.name} copy"
    copy = world.copy(1, copy_name)
    seen = world.registry.get_version(copy_name, copy)
    barred = world.book.versions_tagged(copy_name, contract.TAG_STATE, "quarantined")
    world.registry.set_version_tag(copy_name, copy, contract.TAG_STATE, "admitted")
    world.registry.set_version_tag(copy_name, copy, contract.TAG_OF, f"{copy_name}/{copy}")
    adopted = world.registry.get_version(copy_name, copy)
    again = world.registry.get_version(f"{copy_name} 2", world.copy(copy, f"{copy_name} 2", of=copy_name))

    said = {"relay.state", "relay.judged", "relay.tries", "relay.refused.box"}
    assert dict(seen.tags) == {contract.TAG_MANIFEST: "d" * 64}
    assert (seen.copied_tags, barred) == (said, ())
    assert (adopted.tags[contract.TAG_STATE], adopted.copied_tags) == ("admitted", frozenset())
    assert again.copied_tags == said
