"""Thousands of decisions that moved nothing, written into MLflow's tables: by its API they would take minutes."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import sqlalchemy
from sqlalchemy import MetaData

from pipeline.promotion import ledger
from pipeline.promotion.ledger import Entry

_BATCH = 1000
_MS = 1000


def fill_decisions(database: str, experiment_id: str, name: str, *, since: datetime, number: int) -> None:
    """Write `number` runs of kind `keep`, one a second after `since`, with the params and tags of real ones."""
    engine = sqlalchemy.create_engine(database)
    tables = MetaData()
    tables.reflect(engine, only=["runs", "params", "tags"])
    record = ledger.to_run(name, Entry(kind=ledger.KEEP, because="none of the candidates is better"))
    with engine.begin() as connection:
        for start in range(0, number, _BATCH):
            ids = {uuid.uuid4().hex: one for one in range(start, min(start + _BATCH, number))}
            runs = [
                _run(run_id, experiment_id, round((since.timestamp() + one + 1) * _MS)) for run_id, one in ids.items()
            ]
            connection.execute(tables.tables["runs"].insert(), runs)
            for table, values in (("params", record.params), ("tags", record.tags)):
                rows = [{"run_uuid": one, "key": key, "value": text} for one in ids for key, text in values.items()]
                connection.execute(tables.tables[table].insert(), rows)
    engine.dispose()


def _run(run_id: str, experiment_id: str, started_ms: int) -> dict[str, object]:
    return {
        "run_uuid": run_id,
        "name": "keep",
        "source_type": "UNKNOWN",
        "user_id": "bench",
        "status": "FINISHED",
        "start_time": started_ms,
        "end_time": min(started_ms + _MS, round(datetime.now(UTC).timestamp() * _MS)),
        "lifecycle_stage": "active",
        "artifact_uri": f"s3://bench/{run_id}/artifacts",
        "experiment_id": int(experiment_id),
    }
