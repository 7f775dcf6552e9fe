"""`relay status` on a registry in memory, with servers that answer, are silent, or wrote nonsense."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from rich.console import Console

from pipeline import status_command
from pipeline.promotion.marks import Mark, read_mark
from pipeline.status import Overview, count_pending, overview, show
from pipeline.watching.pending import PendingQueue
from pipeline.what_is_wrong import what_is_wrong
from registry_hooks import contract
from registry_hooks.errors import DeletedExperimentError, RegistryUnavailableError, UnknownModelError
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


@pytest.fixture
def live_server() -> Iterator[str]:
    """A server that serves version 1 and has been behind for 12 s."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            info = {"version": 1, "checkpoint_step": 100, "behind_s": 12.4, "reason": "version 3 is [/being] fetched"}
            body = json.dumps(info).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


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
