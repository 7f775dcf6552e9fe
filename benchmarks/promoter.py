"""One pass of the promoter over 10,000 versions when nothing is new: `python benchmarks/promoter.py [--quick]`.

MLflow on SQLite and, where `psycopg2` and PostgreSQL are at hand, on PostgreSQL. Beside it stands what a script with
MLflow's own client would do: read all versions by `search_model_versions`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
from support.many_versions import fill
from support.report import RESULTS, Report, Row

from pipeline.promotion import ledger
from pipeline.promotion.acting import Hands, Judgement
from pipeline.promotion.ledger import Entry
from pipeline.promotion.reconciling import Promoter
from registry_hooks.mlflow_promotion import MlflowPromotion
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.records import ModelVersion

NAME, ALIAS = "thousands", "Production"
READY_TIMEOUT_S = 120.0
NUM_PASSES = 200


class NoJudge:
    """Nothing is new, so nobody asks."""

    def judge(self, incumbent: ModelVersion, candidates: Sequence[ModelVersion]) -> Judgement:
        raise AssertionError("there was something to judge")


@contextmanager
def mlflow_server(database: str, room: Path) -> Iterator[str]:
    """An MLflow server on that database."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", database, "--workers", "1", "--no-serve-artifacts"]
    command += ["--default-artifact-root", "s3://bench/mlflow"]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (room / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        _await(f"{url}/health", process, room / "mlflow.log")
        yield url
    finally:
        for member in (*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)):
            member.terminate()
        process.wait(30)


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise RuntimeError(f"MLflow did not become ready: {log.read_text()[-2000:]}")


@contextmanager
def postgresql(room: Path) -> Iterator[str]:
    """A PostgreSQL server of its own, on a socket in `room`; as the user `postgres` where root runs this."""
    data, as_user = room / "postgres", ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_user:
        room.chmod(0o755)
        shutil.chown(room, "postgres")
    programs = Path(_run("pg_config", "--bindir"))
    _run(*as_user, programs / "initdb", "-D", data, "-A", "trust", "-U", "relay")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {room}"
    _run(*as_user, programs / "pg_ctl", "-D", data, "-w", "-l", room / "postgres.log", "-o", options, "start")
    try:
        yield f"postgresql://relay@127.0.0.1:{port}/postgres"
    finally:
        _run(*as_user, programs / "pg_ctl", "-D", data, "-m", "fast", "stop")


def _run(*command: str | Path) -> str:
    with tempfile.TemporaryFile() as said:  # a server that stays behind would hold a pipe open
        subprocess.run(command, stdout=said, stderr=said, check=True, timeout=120)
        said.seek(0)
        return said.read().decode().strip()


def measure(database: str, room: Path, num_versions: int) -> tuple[list[float], list[float], float]:
    """Seconds of passes and of MLflow's own client, and how much our memory grew in MB."""
    with mlflow_server(database, room) as url:
        registry = MlflowRegistry(url, timeout_s=60, write_timeout_s=60)
        fill(database, registry, NAME, num_versions)
        promoted = Entry(kind=ledger.PROMOTE, because="it was better", target=num_versions, previous=num_versions - 1)
        registry.record_run(ledger.to_run(NAME, promoted))
        hands = Hands(registry=registry, book=MlflowPromotion(registry), name=NAME, alias=ALIAS)
        promoter = Promoter(hands=hands, judge=NoJudge(), clock=lambda: datetime.now(UTC))
        assert promoter.reconcile().resting == "nothing new"
        ours, theirs = [], []
        for _ in range(5):
            ours.append(_seconds(promoter.reconcile))
            theirs.append(_seconds(lambda: _read_all(url)))
        before = psutil.Process().memory_info().rss
        for _ in range(NUM_PASSES):
            promoter.reconcile()
        grown = (psutil.Process().memory_info().rss - before) / 1e6
        registry.close()
    return ours, theirs, grown


def _read_all(url: str) -> None:
    from mlflow import MlflowClient

    client, token = MlflowClient(tracking_uri=url, registry_uri=url), None
    while True:
        page = client.search_model_versions(f"name='{NAME}'", max_results=1000, page_token=token)
        token = page.token
        if not token:
            return


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the versions, to see that it runs")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results; default: benchmarks/results")
    arguments = parser.parse_args()
    num_versions = 1000 if arguments.quick else 10_000
    rows: list[Row] = []
    for kind in ("sqlite", "postgresql"):
        with tempfile.TemporaryDirectory(prefix="relay-promoter-") as folder, ExitStack() as up:
            room = Path(folder)
            if kind == "sqlite":
                database = f"sqlite:///{room}/mlflow.db"
            elif shutil.which("pg_config"):
                database = up.enter_context(postgresql(room))
            else:
                print("PostgreSQL is not here: its row is left out")
                continue
            ours, theirs, grown = measure(database, room, num_versions)
        size = "10k" if num_versions == 10_000 else "1k"
        rows.append(Row(what=f"reconcile_{size}_{kind}_s", ours=ours, peer=theirs))
        rows.append(Row(what=f"memory_grown_in_{NUM_PASSES}_passes_{kind}", ours=[grown], unit="MB"))
    report = Report(
        name="promoter",
        title="One pass of the promoter when nothing is new",
        lines=[
            f"{num_versions:,} versions of one registered model, all judged; MLflow with one worker. plain: all of "
            "them by `MlflowClient.search_model_versions`, a thousand a page, as a script would do. Medians of 5, "
            "lowest and highest in brackets."
        ],
        rows=rows,
    )
    report.write(arguments.out or (Path(tempfile.gettempdir()) if arguments.quick else RESULTS))


if __name__ == "__main__":
    main()
