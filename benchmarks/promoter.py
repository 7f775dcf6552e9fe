"""One pass of the promoter over 10,000 versions when nothing is new: `python benchmarks/promoter.py [--quick]`.

MLflow on SQLite and, where `psycopg2` and PostgreSQL are at hand, on PostgreSQL. Beside it stands what a script with
MLflow's own client would do: read all versions by `search_model_versions`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from support.many_decisions import fill_decisions
from support.many_versions import fill
from support.report import RESULTS, Report, Row

from pipeline.promotion import ledger
from pipeline.promotion.acting import Hands, Judgement
from pipeline.promotion.ledger import Entry
from pipeline.promotion.reconciling import Promoter
from pipeline.stack.local import answers, running
from pipeline.stack.mlflow_server import mlflow_program
from registry_hooks.mlflow_promotion import MlflowPromotion
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.mlflow_runs import find_experiment
from registry_hooks.records import ModelVersion

NAME, ALIAS = "thousands", "Production"
READY_TIMEOUT_S = 120.0
NUM_PASSES = 200
FEW_DECISIONS = 100


class NoJudge:
    """Nothing is new, so nobody asks."""

    def judge(
        self, incumbent: ModelVersion | None, candidates: Sequence[ModelVersion], *, gives_up: bool = False
    ) -> Judgement:
        raise AssertionError("there was something to judge")


@contextmanager
def mlflow_server(database: str, room: Path) -> Iterator[str]:
    """The MLflow server of `relay up`, on that database."""
    port = _free_port()
    program = mlflow_program(data_dir=room, port=port, artifact_root="s3://bench/mlflow", env={})
    place = list(program.command).index("--backend-store-uri") + 1
    command = [*program.command[:place], database, *program.command[place + 1 :]]
    url = f"http://127.0.0.1:{port}"
    with running(replace(program, command=command), room) as child:
        child.wait_until(answers(f"{url}/health"), timeout_s=READY_TIMEOUT_S)
        yield url


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def postgresql(room: Path) -> Iterator[str]:
    """A PostgreSQL server of its own, on a socket in `room`; as the user `postgres` where root runs this."""
    data, as_user = room / "postgres", ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_user:
        room.chmod(0o755)
        shutil.chown(room, "postgres")
    programs = Path(_run("pg_config", "--bindir"))
    _run(*as_user, programs / "initdb", "-D", data, "-A", "trust", "-U", "relay")
    port = _free_port()
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {room}"
    _run(*as_user, programs / "pg_ctl", "-D", data, "-w", "-l", room / "postgres.log", "-o", options, "start")
    try:
        yield f"postgresql+psycopg2://relay@127.0.0.1:{port}/postgres"
    finally:
        _run(*as_user, programs / "pg_ctl", "-D", data, "-m", "fast", "stop")


def _run(*command: str | Path) -> str:
    with tempfile.TemporaryFile() as said:  # a server that stays behind would hold a pipe open
        subprocess.run(command, stdout=said, stderr=said, check=True, timeout=120)
        said.seek(0)
        return said.read().decode().strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Seconds of passes and of MLflow's own client, and how much our memory grew.

    Attributes:
        few, many: Seconds of passes behind 100 decisions, and behind thousands.
    """

    ours: list[float]
    theirs: list[float]
    grown_mb: float
    few: list[float]
    many: list[float]


def measure(database: str, room: Path, num_versions: int, num_decisions: int) -> Measured:
    """Measure on that database, which is empty."""
    with mlflow_server(database, room) as url:
        registry = MlflowRegistry(url, timeout_s=60, write_timeout_s=60)
        fill(database, registry, NAME, num_versions)
        hands = Hands(registry=registry, book=MlflowPromotion(registry), name=NAME, alias=ALIAS)
        began = datetime.now(UTC) - timedelta(days=1)
        promoted = Entry(
            kind=ledger.PROMOTE, because="it was better", target=num_versions, previous=num_versions - 1, at=began
        )
        hands.logbook.write(promoted)
        promoter = Promoter(hands=hands, judge=NoJudge(), clock=lambda: datetime.now(UTC))
        assert promoter.reconcile().resting == "nothing new"
        ours, theirs = [], []
        for _ in range(5):
            ours.append(_seconds(promoter.reconcile))
            theirs.append(_seconds(lambda: _read_all(url)))
        rss_bytes = psutil.Process().memory_info().rss
        for _ in range(NUM_PASSES):
            promoter.reconcile()
        grown = (psutil.Process().memory_info().rss - rss_bytes) / 1e6
        found = find_experiment(registry.rest, hands.logbook.experiment) or ""
        fill_decisions(database, found, NAME, since=began, number=FEW_DECISIONS)
        few = [_seconds(promoter.reconcile) for _ in range(5)]
        later = began + timedelta(hours=1)
        fill_decisions(database, found, NAME, since=later, number=num_decisions - FEW_DECISIONS)
        many = [_seconds(promoter.reconcile) for _ in range(5)]
        assert promoter.reconcile().resting == "nothing new"
        registry.close()
    return Measured(ours=ours, theirs=theirs, grown_mb=grown, few=few, many=many)


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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: it takes its servers down with it
    num_versions, num_decisions = (1000, 1200) if arguments.quick else (10_000, 12_000)
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
            found = measure(database, room, num_versions, num_decisions)
        size = "10k" if num_versions == 10_000 else "1k"
        rows.append(Row(what=f"reconcile_{size}_{kind}_s", ours=found.ours, peer=found.theirs))
        quiet = f"quiet_pass_{num_decisions / 1000:g}k_decisions_s"
        rows.append(Row(what=quiet if kind == "sqlite" else f"{quiet}_{kind}", ours=found.many, peer=found.few))
        rows.append(Row(what=f"memory_grown_in_{NUM_PASSES}_passes_{kind}", ours=[found.grown_mb], unit="MB"))
    report = Report(
        name="promoter",
        title="One pass of the promoter when nothing is new",
        lines=[
            f"{num_versions:,} versions of one registered model, all judged; MLflow with one worker. plain: all of "
            "them by `MlflowClient.search_model_versions`, a thousand a page, as a script would do. Medians of 5, "
            "lowest and highest in brackets.",
            "quiet_pass_…: the same pass behind thousands of decisions since the last move; plain: behind "
            f"{FEW_DECISIONS} of them, in the same run. Both are written into MLflow's tables directly.",
        ],
        rows=rows,
    )
    report.write(arguments.out or (Path(tempfile.gettempdir()) if arguments.quick else RESULTS))


if __name__ == "__main__":
    main()
