"""The decision table of the control loop."""

from __future__ import annotations

import pytest

from registry_hooks import contract
from registry_hooks.records import ModelVersion
from server.gateway import watching
from server.gateway.blaming import Refusal
from server.gateway.lineup import identity
from server.gateway.watching import Actual, BootFromCache, FlipToWarm, Keep, Load, Restart, Sighting

NOW = 1_000.0


def a_version(number: int, digest: str | None = "d") -> ModelVersion:
    tags = {} if digest is None else {contract.TAG_MANIFEST: f"{digest}{number}"}
    return ModelVersion(
        name="m", version=number, run_id="r", model_id="m-1", artifact_uri=f"s3://b/{number}", tags=tags
    )


def key(number: int) -> watching.Key:
    return identity(a_version(number))


def decide(seen: Sighting, actual: Actual, refusals: dict[watching.Key, Refusal] | None = None) -> watching.Action:
    return watching.next_action(seen, actual, refusals or {}, now_s=NOW)


SEES_2 = Sighting(version=a_version(2))
SILENT = Sighting(version=None, answered=False, trouble="the registry is away")
NO_ALIAS = Sighting(version=None, trouble="no alias")


def test_a_version_that_is_served_is_kept() -> None:
    action = decide(SEES_2, Actual(current=key(2)))

    assert isinstance(action, Keep)
    assert "m/2" in action.because


def test_a_new_version_is_loaded() -> None:
    assert decide(SEES_2, Actual(current=key(1))) == Load(version=a_version(2), because="the alias names m/2")


def test_the_first_version_is_loaded() -> None:
    assert isinstance(decide(SEES_2, Actual()), Load)


def test_a_warm_version_is_flipped_to() -> None:
    assert isinstance(decide(SEES_2, Actual(current=key(1), warm=key(2))), FlipToWarm)


@pytest.mark.parametrize("seen", [SILENT, NO_ALIAS])
def test_silence_and_a_deleted_alias_never_unload(seen: Sighting) -> None:
    action = decide(seen, Actual(current=key(1), last_good=True))

    assert action == Keep(because=seen.trouble)


@pytest.mark.parametrize("seen", [SILENT, NO_ALIAS])
def test_a_box_without_a_model_boots_from_its_cache(seen: Sighting) -> None:
    assert isinstance(decide(seen, Actual(last_good=True)), BootFromCache)


def test_a_box_without_model_and_cache_waits_and_says_why() -> None:
    assert decide(SILENT, Actual()) == Keep(because="the registry is away")


def test_a_refused_version_is_never_tried_again_by_itself() -> None:
    refusals = {key(2): Refusal(because="bad bytes", retry_at_s=None)}

    assert decide(SEES_2, Actual(current=key(1)), refusals) == Keep(because="bad bytes")


def test_a_refused_version_stays_refused_when_it_is_warm() -> None:
    refusals = {key(2): Refusal(because="bad bytes", retry_at_s=None)}

    assert isinstance(decide(SEES_2, Actual(current=key(1), warm=key(2)), refusals), Keep)


def test_a_box_without_a_model_serves_its_last_good_while_the_named_version_is_refused() -> None:
    refusals = {key(2): Refusal(because="bad bytes", retry_at_s=None)}

    assert isinstance(decide(SEES_2, Actual(last_good=True), refusals), BootFromCache)


def test_a_failed_version_waits_until_its_time_and_is_then_tried_again() -> None:
    later = Refusal(because="S3 away", retry_at_s=NOW + 1)
    due = Refusal(because="S3 away", retry_at_s=NOW)

    assert isinstance(decide(SEES_2, Actual(current=key(1)), {key(2): later}), Keep)
    assert isinstance(decide(SEES_2, Actual(current=key(1)), {key(2): due}), Load)


def test_a_dead_engine_is_restarted_before_anything_else() -> None:
    assert isinstance(decide(SEES_2, Actual(current=key(1), alive=False)), Restart)
    assert isinstance(decide(SILENT, Actual(current=key(1), alive=False, restart_at_s=NOW)), Restart)


def test_an_engine_that_dies_again_and_again_waits_and_says_so() -> None:
    waiting = Actual(current=key(2), alive=False, restart_at_s=NOW + 4)

    action = decide(SEES_2, waiting)

    assert isinstance(action, Keep)
    assert "died" in action.because


def test_a_moved_alias_is_followed_while_the_old_engine_waits_for_its_restart() -> None:
    waiting = Actual(current=key(1), alive=False, restart_at_s=NOW + 4)

    assert isinstance(decide(SEES_2, waiting), Load)


def test_a_number_that_is_used_again_is_another_version() -> None:
    again = ModelVersion(name="m", version=2, run_id=None, model_id=None, artifact_uri="s3://b/other")

    assert isinstance(decide(Sighting(version=again), Actual(current=key(2))), Load)


def test_polls_slow_down_while_the_registry_is_silent_and_never_stop() -> None:
    assert watching.poll_delay_s(1.0, 0) == 1.0
    assert watching.poll_delay_s(1.0, 2) == 4.0
    assert watching.poll_delay_s(1.0, 1000) == 10.0
    assert watching.poll_delay_s(60.0, 3) == 60.0


def test_the_first_death_is_answered_at_once_and_later_ones_later() -> None:
    assert [watching.restart_delay_s(n) for n in (1, 2, 3, 20)] == [0.0, 1.0, 2.0, 30.0]
