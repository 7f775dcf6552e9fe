"""The judgements of `relay doctor`, without any server."""

from __future__ import annotations

import socket
import threading
import time
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.doctor import clocks, machine_checks, package_checks, registry_checks, store_checks
from pipeline.doctor.examining import CHECKS, examine
from pipeline.doctor.finding import Check, Finding, ok, without_secrets
from registry_hooks.errors import AccessDeniedError, StoreError
from registry_hooks.memory_store import MemoryStore
from registry_hooks.settings import ServeSettings, Settings

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("skew_s", "verdict", "said"),
    [
        (0, "ok", "agrees"),
        (4, "ok", "agrees"),
        (20, "warning", "20 s ahead"),
        (-20, "warning", "20 s behind"),
        (900, "failed", "15 minutes"),
        (-900, "failed", "900 s behind"),
    ],
)
def test_clocks_that_differ_are_told_apart_by_how_much(skew_s: float, verdict: str, said: str) -> None:
    asked = NOW + timedelta(seconds=skew_s)

    finding = clocks.skew_finding("c", theirs=NOW, asked=asked, answered=asked + timedelta(seconds=1))

    assert (finding.verdict, said in finding.what) == (verdict, True)
    assert (finding.mend == "") == (verdict == "ok")


def test_a_server_without_a_clock_is_no_failure() -> None:
    finding = clocks.skew_finding("c", theirs=clocks.clock_of("soon"), asked=NOW, answered=NOW)

    assert finding.verdict == "warning"


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ("3.17.2", "ok"),
        ("3.18.0rc1", "ok"),
        ("3.16.9", "failed"),
        ("2.22", "failed"),
        ("4.0", "warning"),
        ("", "warning"),
    ],
)
def test_the_version_of_mlflow_is_judged(version: str, verdict: str) -> None:
    assert registry_checks.version_finding(version).verdict == verdict


def test_a_refused_host_name_says_which_option_mends_it() -> None:
    said = "MLflow refused access (HTTP 403: Invalid Host header - possible DNS rebinding attack detected)"

    finding = registry_checks.refused(said, "http://training-box:5000")
    other = registry_checks.refused("refused access (HTTP 401: )", "http://training-box:5000")

    assert "--allowed-hosts 'training-box,training-box:*,localhost:*'" in finding.mend
    assert "DNS rebinding" in finding.what
    assert "MLFLOW_TRACKING_USERNAME" in other.mend


@pytest.mark.parametrize(("free", "verdict"), [(0, "failed"), (5 * 10**9, "warning"), (10**11, "ok")])
def test_disks_are_judged_by_what_is_free(free: int, verdict: str) -> None:
    finding = machine_checks.disk_finding("cache disk", Path("/x"), free, setting="RELAY_SERVE__CACHE_DIR")

    assert (finding.verdict, "RELAY_SERVE__CACHE_DIR" in finding.mend) == (verdict, verdict != "ok")


def test_the_disk_of_a_folder_that_is_not_there_yet_is_measured(tmp_path: Path) -> None:
    assert machine_checks.free_bytes(tmp_path / "not" / "yet") == pytest.approx(
        machine_checks.free_bytes(tmp_path), rel=0.1
    )


@pytest.mark.parametrize(
    ("device", "free", "verdict"),
    [
        ("auto", None, "ok"),
        ("cuda", None, "failed"),
        ("auto", 10**9, "warning"),
        ("cpu", 10**9, "ok"),
        ("cuda", 20 * 10**9, "ok"),
    ],
)
def test_the_gpu_is_judged_by_what_engines_want_of_it(device: str, free: int | None, verdict: str) -> None:
    assert machine_checks.gpu_finding(device, free).verdict == verdict


def test_the_gpu_that_engines_use_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    without = machine_checks.gpu(Settings())
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 0, GPU-a, 90000\necho 1, GPU-b, 1000\n")
    tool.chmod(0o755)
    [full] = machine_checks.gpu(Settings())

    assert [one.verdict for one in without] == ["ok"]
    assert (full.verdict, "1.0 GB" in full.what) == ("warning", True)


@pytest.mark.parametrize(
    ("host", "key", "verdict"),
    [("127.0.0.1", "", "ok"), ("box", "", "failed"), ("box", "short", "warning"), ("box", "k" * 32, "ok")],
)
def test_the_key_is_judged_by_who_can_come_in(host: str, key: str, verdict: str) -> None:
    finding = machine_checks.key_finding(host, key)

    assert finding.verdict == verdict
    assert ("RELAY_SERVE__API_KEY" in finding.mend) == (verdict != "ok")


def test_a_free_port_is_good_and_one_that_another_program_has_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        settings = Settings(serve=ServeSettings(port=number))
        while_taken = machine_checks.port(settings)[0]
    afterwards = machine_checks.port(settings)[0]

    assert (while_taken.verdict, afterwards.verdict) == ("failed", "ok")
    assert "RELAY_SERVE__PORT" in while_taken.mend


@pytest.mark.parametrize(
    ("version", "verdict"),
    [("5.23.0", "ok"), ("5.20", "ok"), ("5.19.9", "failed"), ("6.0.0", "warning"), (None, "failed")],
)
def test_packages_are_judged_by_their_versions(version: str | None, verdict: str) -> None:
    need = next(need for need in package_checks.ENGINE_NEEDS if need.package == "transformers")

    finding = package_checks.package_finding(need, version)

    assert (finding.verdict, finding.mend.startswith("pip install")) == (verdict, verdict != "ok")


def test_the_build_of_a_package_does_not_count_as_its_version() -> None:
    assert package_checks.package_finding(package_checks.ENGINE_NEEDS[0], "2.13.0+cpu").verdict == "ok"


def test_the_versions_that_doctor_asks_for_are_those_of_the_project_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    engine, stack = (project["optional-dependencies"][extra] for extra in ("engine", "stack"))

    assert {need.requirement for need in package_checks.ENGINE_NEEDS} <= set(engine)
    assert "mlflow>=3.17,<4" in stack
    assert (registry_checks.FIRST_GOOD, registry_checks.FIRST_UNKNOWN) == ((3, 17), (4,))
    assert project["requires-python"] == ">=" + ".".join(str(part) for part in package_checks.FIRST_PYTHON)


def test_a_trial_of_the_store_leaves_nothing_behind() -> None:
    store = MemoryStore()

    findings = store_checks.trial(store, "s3://relay/mlflow")

    assert [(finding.name, finding.verdict) for finding in findings] == [
        (f"S3 {step}", "ok") for step in ("write", "read", "ranged read", "delete")
    ]
    assert store.list_objects("s3://relay/mlflow") == []


def test_a_store_that_ignores_ranges_is_found_out() -> None:
    class Forgetful(MemoryStore):
        def read_into(self, uri: str, start: int, buffer: memoryview) -> None:
            super().read_into(uri, 0, buffer)

    store = Forgetful()

    findings = {finding.name: finding for finding in store_checks.trial(store, "s3://relay/mlflow")}

    assert (findings["S3 read"].verdict, findings["S3 ranged read"].verdict) == ("ok", "failed")
    assert store.list_objects("s3://relay/mlflow") == []


def test_a_store_that_refuses_is_not_tried_further_and_names_the_keys() -> None:
    store = MemoryStore()
    store.denied = True

    findings = store_checks.trial(store, "s3://relay/mlflow")

    assert [finding.name for finding in findings] == ["S3 write"]
    assert "AWS_ACCESS_KEY_ID" in findings[0].mend


def test_each_trouble_of_the_store_has_its_own_remedy() -> None:
    skewed = AccessDeniedError("reading was refused: box answered RequestTimeTooSkewed; set AWS_ACCESS_KEY_ID")
    no_bucket = StoreError("there is no bucket 'relay' at box: create it")

    assert "timedatectl" in store_checks.mend_for(skewed)
    assert "aws s3 mb" in store_checks.mend_for(no_bucket)
    assert "see the message" in store_checks.mend_for(StoreError("odd"))


def test_artifacts_that_mlflow_serves_itself_are_refused() -> None:
    finding = store_checks.not_in_s3("S3 write", "mlflow-artifacts:/1")

    assert (finding.verdict, "--no-serve-artifacts" in finding.mend) == ("failed", True)


def test_no_secret_is_ever_shown() -> None:
    finding = Finding(name="x", verdict="failed", what="http://me:pass@box said key-123456", mend="use key-123456")

    hidden = without_secrets(finding, ["key-123456", ""])

    assert hidden == Finding(name="x", verdict="failed", what="http://***@box said ***", mend="use ***")


def test_a_check_that_hangs_or_crashes_takes_nothing_from_the_others() -> None:
    released = threading.Event()

    def hang(settings: Settings) -> Sequence[Finding]:
        released.wait(30)
        return []

    def crash(settings: Settings) -> Sequence[Finding]:
        raise RuntimeError("a bug with key-123456789 in it")

    def refuse(settings: Settings) -> Sequence[Finding]:
        raise StoreError("the store is odd")

    checks = [
        Check(name="hangs", ask=hang, mend_silence="start it"),
        Check(name="crashes", ask=crash, mend_silence=""),
        Check(name="refuses", ask=refuse, mend_silence="mend it"),
        Check(name="elsewhere", ask=crash, mend_silence="", roles=("training",)),
        Check(name="works", ask=lambda settings: [ok("works", "well")], mend_silence=""),
    ]
    settings = Settings(serve=ServeSettings(api_key="key-123456789"))
    began = time.monotonic()
    findings = examine(settings, role="inference", checks=checks, timeout_s=0.3)
    took_s = time.monotonic() - began
    released.set()

    assert [(one.name, one.verdict) for one in findings] == [
        ("hangs", "failed"),
        ("crashes", "failed"),
        ("refuses", "failed"),
        ("works", "ok"),
    ]
    assert (findings[0].mend, findings[2].mend) == ("start it", "mend it")
    assert "key-123456789" not in str(findings)
    assert took_s < 5


@pytest.mark.parametrize(
    ("role", "present", "absent"), [("training", "S3 write", "port"), ("inference", "S3 read", "data disk")]
)
def test_each_box_is_asked_what_matters_for_it(role: str, present: str, absent: str) -> None:
    names = {check.name for check in CHECKS if role in check.roles}

    assert present in names
    assert absent not in names
