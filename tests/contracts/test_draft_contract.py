"""From a draft to a version, in every registry: begun twice, killed in between, never half."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry_hooks.errors import (
    UnknownModelError,
    UserError,
)
from registry_hooks.records import RunRecord
from tests.contracts.registries import World, draft_of, publish


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


def test_metrics_keep_the_names_that_the_trainer_gave_them(world: World, name: str) -> None:
    metrics = {"eval_accuracy@1": 0.5, "eval_f1 (macro)": 0.25, "eval_loss": 1.0}
    _, version = publish(world, draft_of(name, metrics=metrics, params={"dtype": "float32", "lr@0": "0.1"}))

    assert dict(world.registry.run_metrics(version.run_id or "")) == metrics


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
