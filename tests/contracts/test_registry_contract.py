"""What every registry must do: the MLflow adapter against a real server, and the in-memory twin, by the same tests."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any, Protocol

import httpx
import pytest

from registry_hooks import contract
from registry_hooks.errors import (
    AccessDeniedError,
    RegistryError,
    RegistryUnavailableError,
    RelayError,
    SettingsError,
    UnknownModelError,
    UserError,
)
from registry_hooks.memory import MemoryRegistry
from registry_hooks.mlflow_catalog import MlflowCatalog
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.ports import CheckpointCatalog, ModelOverview, ReportSink, VersionSource
from registry_hooks.records import CheckpointDraft, DraftPlace, Lineage, ModelVersion, RunRecord

SAVED_AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


class Registry(VersionSource, ReportSink, ModelOverview, Protocol):
    """The three ports that one adapter serves."""


@dataclass(frozen=True)
class World:
    """A registry, and what a person does with it by other means."""

    registry: Registry
    catalog: CheckpointCatalog
    set_alias: Callable[[str, str, int], None]
    delete_alias: Callable[[str, str], None]


def mlflow_world(tracking_uri: str) -> World:
    registry = MlflowRegistry(tracking_uri, timeout_s=20, write_timeout_s=60)
    api = f"{tracking_uri}/api/2.0/mlflow/registered-models/alias"

    def set_alias(name: str, alias: str, version: int) -> None:
        body = {"name": name, "alias": alias, "version": str(version)}
        httpx.post(api, json=body, timeout=30).raise_for_status()

    def delete_alias(name: str, alias: str) -> None:
        httpx.request("DELETE", api, json={"name": name, "alias": alias}, timeout=30).raise_for_status()

    return World(registry, MlflowCatalog(registry, experiment="contract"), set_alias, delete_alias)


@pytest.fixture(
    params=["memory", pytest.param("mlflow", marks=pytest.mark.integration)],
)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "memory":
        memory = MemoryRegistry(experiment="contract")
        yield World(memory, memory, memory.set_alias, memory.delete_alias)
        return
    yield request.getfixturevalue("mlflow")


@pytest.fixture
def mlflow(stack: Any) -> Iterator[World]:
    world = mlflow_world(stack.tracking_uri)
    yield world
    world.registry.close()  # type: ignore[attr-defined]


@pytest.fixture
def name() -> str:
    return f"model-{uuid.uuid4().hex[:8]}"


def draft_of(name: str, *, step: int = 20, digest: str | None = None, **changes: Any) -> CheckpointDraft:
    draft = CheckpointDraft(
        name=name,
        digest=digest or uuid.uuid4().hex * 2,
        lineage=Lineage(step=step, config_hash="c" * 16, git_commit="a" * 40, git_dirty=True, saved_at=SAVED_AT),
        metrics={"eval_loss": 1.25, "eval_exact_match": 0.5},
        nonfinite={},
        params={"dtype": "float32"},
        parent_run_id=None,
        training_key=uuid.uuid4().hex,
        training_name="sft",
    )
    return replace(draft, **changes)


def publish(
    world: World, draft: CheckpointDraft, tags: Mapping[str, str] | None = None
) -> tuple[DraftPlace, ModelVersion]:
    place = world.catalog.open_draft(draft)
    world.catalog.finish_draft(draft, place)
    all_tags = {contract.TAG_MANIFEST: draft.digest, contract.TAG_STEP: str(draft.lineage.step), **(tags or {})}
    return place, world.catalog.create_version(draft, place, all_tags)


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

    assert tuple(newest) == (published[2], published[1])
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


def test_a_draft_is_no_version(world: World, name: str) -> None:
    draft = draft_of(name)
    place = world.catalog.open_draft(draft)
    world.catalog.finish_draft(draft, place)

    assert world.catalog.find_version(name, draft.digest) is None
    with pytest.raises(UnknownModelError):
        world.registry.resolve_alias(name, "Production")


def test_a_second_try_continues_in_the_place_of_the_first(world: World, name: str) -> None:
    draft = draft_of(name)
    first = world.catalog.open_draft(draft)
    second = world.catalog.open_draft(draft)
    world.catalog.finish_draft(draft, second)
    third = world.catalog.open_draft(draft)
    world.catalog.finish_draft(draft, third)
    _, version = publish(world, draft)

    assert first == second == replace(third, ready=False)
    assert third.ready
    assert version.version == 1


def test_registering_twice_makes_one_version(world: World, name: str) -> None:
    draft = draft_of(name)
    place, version = publish(world, draft)

    assert world.catalog.create_version(draft, place, {}) == version
    assert world.catalog.find_version(name, draft.digest) == version
    with pytest.raises(UnknownModelError):
        world.registry.get_version(name, 2)


def test_a_place_that_became_a_version_is_not_used_again(world: World, name: str) -> None:
    draft = draft_of(name)
    place, _ = publish(world, draft)
    other = world.catalog.open_draft(replace(draft, name=f"{name}-other"))

    assert other.artifact_uri != place.artifact_uri
    assert other.run_id != place.run_id


def test_checkpoints_of_one_training_share_a_parent_run(world: World, name: str) -> None:
    first = draft_of(name, step=1)
    places = [
        world.catalog.open_draft(draft)
        for draft in (
            first,
            draft_of(name, step=2, training_key=first.training_key),
            draft_of(name, step=3),
        )
    ]

    assert places[0].parent_run_id == places[1].parent_run_id != places[2].parent_run_id
    assert len({place.run_id for place in places}) == 3
    assert len({place.artifact_uri for place in places}) == 3


def test_the_training_run_that_the_user_names_is_the_parent(world: World, name: str) -> None:
    parent = world.registry.record_run(
        RunRecord(experiment=f"{name}/training", run_name="my training", params={}, metrics={}, tags={})
    )
    draft = draft_of(name, parent_run_id=parent)
    place, version = publish(world, draft)

    assert place.parent_run_id == parent
    assert version.run_id == place.run_id != parent


def test_a_training_run_that_is_not_there_is_the_users_mistake(world: World, name: str) -> None:
    with pytest.raises(UserError, match="run"):
        world.catalog.open_draft(draft_of(name, parent_run_id="f" * 32))


def test_each_version_has_its_own_metrics(world: World, name: str) -> None:
    versions = [
        publish(world, draft_of(name, step=s, metrics={"eval_loss": loss}))[1] for s, loss in ((1, 2.5), (2, 1.5))
    ]

    assert [dict(world.registry.run_metrics(v.run_id or "")) for v in versions] == [
        {"eval_loss": 2.5},
        {"eval_loss": 1.5},
    ]


def test_an_outage_is_told_from_everything_else() -> None:
    memory = MemoryRegistry()
    memory.down = True
    nobody_listens = MlflowRegistry("http://127.0.0.1:9", timeout_s=2)

    for registry in (memory, nobody_listens):
        with pytest.raises(RegistryUnavailableError) as caught:
            registry.resolve_alias("model", "Production")
        assert caught.value.transient


# What only the MLflow adapter meets.


@pytest.mark.integration
def test_metrics_and_step_show_at_run_and_logged_model(mlflow: World, name: str) -> None:
    draft = draft_of(name, nonfinite={"eval_ppl": "nan"})
    place, _ = publish(mlflow, draft)
    rest = mlflow.registry.rest  # type: ignore[attr-defined]
    run = rest.get("/runs/get", run_id=place.run_id)["run"]
    parent = rest.get("/runs/get", run_id=place.parent_run_id)["run"]
    model = rest.get(f"/logged-models/{place.model_id}")["model"]
    run_tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
    params = {param["key"]: param["value"] for param in run["data"]["params"]}
    metrics = {metric["key"]: (metric["value"], metric["step"]) for metric in model["data"]["metrics"]}

    assert metrics == {"eval_loss": (1.25, 20), "eval_exact_match": (0.5, 20)}
    assert params == {"dtype": "float32", "step": "20"}
    assert run_tags["mlflow.parentRunId"] == place.parent_run_id
    assert run_tags["relay.nonfinite_metrics"] == "eval_ppl=nan"
    assert run["info"]["run_name"] == "sft/checkpoint-20"
    assert (run["info"]["status"], parent["info"]["status"]) == ("FINISHED", "FINISHED")
    assert [output["model_id"] for output in parent["outputs"]["model_outputs"]] == [place.model_id]
    assert model["info"]["status"] == "LOGGED_MODEL_READY"


@pytest.mark.integration
def test_long_values_are_cut_to_what_mlflow_takes(mlflow: World, name: str) -> None:
    publish(mlflow, draft_of(name, params={"long": "x" * 20_000}))
    mlflow.registry.set_version_tag(name, 1, "relay.reason", "y" * 200_000)
    mlflow.registry.set_model_tag(name, "relay.hold", "z" * 200_000)
    record = RunRecord(
        experiment=f"{name}/long",
        run_name="long",
        params={f"p{i}": "x" * 7000 for i in range(150)},
        metrics={f"m{i}": float(i) for i in range(1200)},
        tags={"t": "x" * 20_000},
    )
    run_id = mlflow.registry.record_run(record)

    assert len(mlflow.registry.get_version(name, 1).tags["relay.reason"]) == 5000
    assert len(mlflow.registry.model_tags(name)["relay.hold"]) == 5000
    assert len(mlflow.registry.run_metrics(run_id)) == 1200
    assert len(mlflow.registry.latest_runs(f"{name}/long", 1)[0].params) == 150


@pytest.mark.integration
def test_versions_that_others_made_are_resolved_to_their_storage(mlflow: World, name: str) -> None:
    rest = mlflow.registry.rest  # type: ignore[attr-defined]
    run_id = mlflow.registry.record_run(
        RunRecord(experiment=f"{name}/training", run_name="r", params={}, metrics={}, tags={})
    )
    root = rest.get("/runs/get", run_id=run_id)["run"]["info"]["artifact_uri"]
    rest.post("/registered-models/create", name=name)
    for source in ("s3://elsewhere/by/hand/", f"runs:/{run_id}/model"):
        rest.post("/model-versions/create", name=name, source=source, run_id=run_id)

    assert mlflow.registry.get_version(name, 1).artifact_uri == "s3://elsewhere/by/hand"
    assert mlflow.registry.get_version(name, 2).artifact_uri == f"{root}/model"
    assert mlflow.registry.get_version(name, 2).digest is None


@pytest.mark.integration
def test_the_server_tells_its_version_and_its_clock(mlflow: World) -> None:
    facts = mlflow.registry.rest.server_facts()  # type: ignore[attr-defined]

    assert facts.version.startswith("3.")
    assert facts.clock is not None
    assert abs(datetime.now(UTC) - facts.clock) < timedelta(seconds=30)


class Stub(BaseHTTPRequestHandler):
    """Answers everything with the status and body that its server was given."""

    server: Any

    def do_GET(self) -> None:
        self.server.seen.append({key.lower(): value for key, value in self.headers.items()})
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def stub() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), Stub)
    server.seen = []
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def mlflow_error(code: str, message: str = "so it is") -> bytes:
    return json.dumps({"error_code": code, "message": message}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"<html>" + b"x" * 100, RegistryError),
        (401, b"", AccessDeniedError),
        (404, b"", RegistryError),
        (503, b"", RegistryUnavailableError),
    ],
)
def test_a_server_that_does_not_tell_its_version_is_no_mlflow(
    stub: Any, status: int, body: bytes, kind: type[RelayError]
) -> None:
    registry = MlflowRegistry(f"http://127.0.0.1:{stub.server_address[1]}")
    stub.answer = (status, body)

    with pytest.raises(kind):
        registry.rest.server_facts()
    registry.close()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, b"You are not authenticated", AccessDeniedError),
        (403, mlflow_error("PERMISSION_DENIED"), AccessDeniedError),
        (403, b"Invalid Host header - possible DNS rebinding attack detected", AccessDeniedError),
        (404, mlflow_error("RESOURCE_DOES_NOT_EXIST"), UnknownModelError),
        (404, b"<html>not found</html>", RegistryError),
        (301, b"", RegistryError),
        (400, mlflow_error("INVALID_PARAMETER_VALUE", "Invalid alias name"), RegistryError),
        (400, mlflow_error("BAD_REQUEST"), RegistryError),
        (409, b"[]", RegistryError),
        (429, b"slow down", RegistryUnavailableError),
        (500, mlflow_error("INTERNAL_ERROR"), RegistryUnavailableError),
        (502, b"bad gateway", RegistryUnavailableError),
        (503, mlflow_error("TEMPORARILY_UNAVAILABLE"), RegistryUnavailableError),
        (200, b"<html>login</html>", RegistryError),
        (200, b"[1]", RegistryError),
        (200, b'{"hello": 1}', RegistryError),
        (204, b"", RegistryError),
    ],
)
def test_every_bad_answer_has_a_name(stub: Any, status: int, body: bytes, kind: type[RelayError]) -> None:
    stub.answer = (status, body)
    registry = MlflowRegistry(f"http://127.0.0.1:{stub.server_port}", timeout_s=5)
    with pytest.raises(RelayError) as caught:
        registry.resolve_alias("model", "Production")
    registry.close()

    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("environ", "header"),
    [
        ({"MLFLOW_TRACKING_TOKEN": "secret"}, "Bearer secret"),
        ({"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": "pw"}, "Basic YW5uOnB3"),
    ],
)
def test_the_usual_credentials_are_sent_and_not_shown(stub: Any, environ: dict[str, str], header: str) -> None:
    stub.answer = (401, b"no")
    registry = MlflowRegistry(f"http://127.0.0.1:{stub.server_port}/", timeout_s=5, environ=environ)
    with pytest.raises(AccessDeniedError) as caught:
        registry.resolve_alias("model", "Production")
    registry.close()

    assert stub.seen[0]["authorization"] == header
    assert "secret" not in str(caught.value)
    assert "YW5u" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "environ"),
    [
        ("sqlite:///mlflow.db", {}),
        ("./mlruns", {}),
        ("http://ann:pw@host", {}),
        ("http://host", {"MLFLOW_TRACKING_AWS_SIGV4": "true"}),
        ("http://host", {"MLFLOW_TRACKING_SERVER_CERT_PATH": "/nowhere.pem"}),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(uri: str, environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError):
        MlflowRegistry(uri, environ=environ)
