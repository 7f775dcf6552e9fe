"""`relay status` on a registry in memory, with servers that answer, are silent, or wrote nonsense."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from shutil import copytree

import pytest

from pipeline import status_command
from pipeline.promotion.marks import Mark, read_mark
from pipeline.status import Overview, count_pending, overview
from pipeline.watching.pending import PendingQueue
from registry_hooks import contract
from registry_hooks.errors import RegistryUnavailableError, UnknownModelError
from registry_hooks.memory import MemoryRegistry
from tests.status.views import NAME, NOW, SETTINGS, event, heartbeat, printed, registry_with


def test_versions_that_nobody_judged_wait_and_the_newest_is_the_last_seen() -> None:
    view = overview(registry_with("judged", "", "rejected", "admitted"), SETTINGS, now=NOW)

    assert view.waiting == [4, 2]
    assert view.newest is not None
    assert (view.newest.version, view.newest.step, view.newest.state) == (4, 400, "admitted")
    assert "newest: version 4, step 400, saved 2026-03-04T05:04:00+00:00, admitted" in printed(view)
    assert "waiting to be judged: 2 (4, 2)" in printed(view)


def test_the_last_decision_and_deployment_are_told_with_their_reasons() -> None:
    registry = registry_with("judged")
    decisions, deployments = contract.decisions_experiment(NAME), contract.deployments_experiment(NAME)
    older = replace(event(decisions, "keep/v1", "an older one"), started_at=NOW - timedelta(seconds=1))
    registry.record_run(older)
    registry.record_run(event(decisions, "promote/v2", "0.91 against 0.80 [p = 0.01]"))
    registry.record_run(event(deployments, "box/v1/served", ""))

    text = printed(overview(registry, SETTINGS, now=NOW))

    assert "last decision: promote/v2, 2026-03-04 05:06:11 UTC: 0.91 against 0.80 [p = 0.01]" in text
    assert "last deployment: box/v1/served, 3.5 s, 2026-03-04 05:06:11 UTC" in text
    assert "older" not in text


@pytest.mark.parametrize(
    ("tag", "mark"),
    [
        ('{"who": "ana", "why": "a demo", "since": "2026-03-04"}', Mark(who="ana", why="a demo", since="2026-03-04")),
        ("do not touch [please]", Mark(who="", why="do not touch [please]", since="")),
        ('{"why": null}', Mark(who="", why="", since="")),
        ("7", Mark(who="", why="7", since="")),
        ("", Mark(who="", why="", since="")),
        (None, None),
    ],
)
def test_a_hold_is_read_whoever_wrote_it(tag: str | None, mark: Mark | None) -> None:
    assert read_mark(tag) == mark


def test_hold_and_freeze_are_shown_as_people_wrote_them() -> None:
    registry = registry_with("judged")
    registry.set_model_tag(NAME, contract.TAG_HOLD, '{"who": "ana", "why": "a demo", "since": "monday"}')
    registry.set_model_tag(NAME, contract.TAG_FREEZE, "do not touch [please]")

    text = printed(overview(registry, SETTINGS, now=NOW))

    assert "held by ana since monday: a demo" in text
    assert "frozen: do not touch [please]" in text


def test_a_server_that_answers_tells_itself_how_far_behind_it_is(live_server: str) -> None:
    registry = registry_with("", "", "")
    registry.set_alias(NAME, "Production", 3)
    registry.set_model_tag(NAME, contract.server_tag("box"), heartbeat(live_server))

    view = overview(registry, SETTINGS, now=NOW)
    server = view.servers[0]

    assert (server.is_live, server.version, server.step) == (True, 1, 100)
    assert (server.behind_s, server.num_behind) == (12.4, 2)
    assert "12 s, 2 versions" in printed(view)
    assert "version 3 is [/being] fetched" in printed(view)


def test_a_silent_server_is_shown_as_it_last_wrote_and_a_stopped_one_is_not_asked() -> None:
    registry = registry_with("")
    registry.set_model_tag(NAME, contract.server_tag("a-silent"), heartbeat("http://127.0.0.1:1"))
    registry.set_model_tag(NAME, contract.server_tag("b-stopped"), heartbeat("http://127.0.0.1:1", stopped=True))
    registry.set_model_tag(NAME, contract.server_tag("c-odd"), "[what is this?]")

    view = overview(registry, SETTINGS, now=NOW)
    silent, stopped, odd = view.servers

    assert (silent.is_live, silent.version, silent.seen_s_ago, silent.behind_s) == (False, 1, 40.0, None)
    assert (silent.reason, stopped.reason, odd.version) == ("old", "stopped", None)
    assert "silent; wrote 40 s ago" in printed(view)
    assert "stopped; wrote 40 s ago" in printed(view)


def test_what_really_waits_in_the_queue_is_counted_and_nothing_else(tmp_path: Path, tiny_checkpoint: Path) -> None:
    queue = PendingQueue(tmp_path / "queue")
    for step in (10, 20, 30):
        queue.stage(copytree(tiny_checkpoint, tmp_path / f"checkpoint-{step}"))
    queue.fail(queue.entries()[0], "it is none")
    (queue.folder / ".staging-1").mkdir()
    (queue.folder / ".staging-1" / "entry.json").write_text("{}")

    view = overview(registry_with(""), SETTINGS, now=NOW, pending_dir=queue.folder)
    elsewhere = overview(registry_with(""), SETTINGS, now=NOW)

    assert (view.num_pending, count_pending(tmp_path / "nowhere"), elsewhere.num_pending) == (2, 0, None)
    assert "waiting to be uploaded from this box: 2" in printed(view)
    assert "uploaded" not in printed(elsewhere)


def test_a_model_without_alias_versions_or_servers_says_what_to_do() -> None:
    registry = registry_with("")
    registry.delete_alias(NAME, "Production")
    registry.set_alias(NAME, "production", 1)

    text = printed(overview(registry, SETTINGS, now=NOW))

    assert "names nothing: the alias is not set" in text
    assert "there is also an alias 'production'" in text
    assert "`relay serve`" in text


def test_trouble_with_the_registry_is_raised_by_name() -> None:
    registry = registry_with("")
    with pytest.raises(UnknownModelError):
        overview(MemoryRegistry(), SETTINGS, now=NOW)
    registry.down = True

    with pytest.raises(RegistryUnavailableError):
        overview(registry, SETTINGS, now=NOW)


def test_json_holds_everything_and_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    registry = registry_with("judged", "")
    registry.record_run(event(contract.decisions_experiment(NAME), "promote/v2", "better"))
    registry.set_model_tag(NAME, contract.TAG_HOLD, "x" * 300)

    code = status_command.print_status(registry, SETTINGS, as_json=True)
    document = json.loads(capsys.readouterr().out)

    assert code == 0
    assert set(document) == set(Overview.__dataclass_fields__)
    assert (document["aliased_version"], document["waiting"], document["hold"]["why"]) == (1, [2], "x" * 300)
    assert document["last_decision"]["ended_at"] == "2026-03-04T05:06:11+00:00"


def stopping_after(looks: int, between: Callable[[], None]) -> Callable[[float], None]:
    """A sleep that does `between` and is Ctrl-C at the last look."""
    left = [looks]

    def sleep(seconds: float) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        between()

    return sleep


@pytest.mark.parametrize("as_json", [True, False])
def test_watching_goes_on_through_an_outage_and_ends_well_by_ctrl_c(
    as_json: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registry_with("judged")

    def toggle() -> None:
        registry.down = not registry.down

    monkeypatch.setattr(status_command.time, "sleep", stopping_after(3, toggle))

    code = status_command.print_status(registry, SETTINGS, as_json=as_json, watch=True)
    out = capsys.readouterr().out

    assert code == 0
    if as_json:
        lines = [json.loads(line) for line in out.splitlines()]
        assert [line.get("aliased_version") for line in lines] == [1, None, 1]
        assert "is down" in lines[1]["error"]
    else:
        assert "names version 1" in out


def test_why_a_version_waits_is_told_once_for_all_that_wait_for_the_same() -> None:
    registry = registry_with("judged", "", "", "admitted")
    registry.set_model_tag(NAME, contract.TAG_FREEZE, "release week")

    view = overview(registry, SETTINGS, now=NOW)

    assert view.why_waiting[4] == "frozen: release week"
    assert "  3, 2: no promoter has looked at it yet" in printed(view)


def test_a_deleted_alias_is_what_they_wait_for() -> None:
    registry = registry_with("judged", "admitted")
    registry.delete_alias(NAME, "Production")
    params = {"kind": "manual", "target": "none", "previous": "1", "by": "a person"}
    registry.record_run(replace(event(contract.decisions_experiment(NAME), "manual", "removed"), params=params))

    assert "Production was deleted by hand" in overview(registry, SETTINGS, now=NOW).why_waiting[2]
