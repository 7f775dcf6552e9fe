"""Per-item scores as a Parquet file: what the promoter's statistics are made of, and what any tool can read."""

from __future__ import annotations

import io
import json
import math
from typing import Any

from pipeline.evaluation.results import Evaluation, ItemScore
from registry_hooks.errors import EvaluationError

# A hundred thousand items with a page of text each.
MAX_PARQUET_BYTES = 256 * 1024 * 1024
_FACTS = b"relay"
_FACT_NAMES = ("test_set", "test_set_digest", "fingerprint", "seconds", "device", "dtype")
_FORM, _GROUP = "form", "group"  # older files have none
_SCORERS = ("exact_match", "accuracy")


def to_parquet(evaluation: Evaluation) -> bytes:
    """The file: one row an item, and what holds for all of them in the schema's metadata."""
    pa, parquet = _arrow()
    schema = _schema(pa)
    columns = {name: [getattr(item, name) for item in evaluation.items] for name in schema.names}
    facts = {name: getattr(evaluation, name) for name in _FACT_NAMES} | {_FORM: dict(evaluation.form)}
    table = pa.table(columns, schema=schema.with_metadata({_FACTS: json.dumps(facts)}))
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def from_parquet(data: bytes) -> Evaluation:
    """The evaluation that `to_parquet` wrote.

    Raises:
        EvaluationError: It is another file, or a number in it is missing or not finite.
    """
    pa, parquet = _arrow()
    try:
        table = parquet.read_table(io.BytesIO(data))
        facts = json.loads(table.schema.metadata[_FACTS])
        names = [name for name in _schema(pa).names if name != _GROUP or _GROUP in table.column_names]
        rows = table.select(names).to_pylist()
        items = tuple(ItemScore(**row) for row in rows)
        form = {str(key): str(value) for key, value in facts.get(_FORM, {}).items()}
        found = Evaluation(items=items, form=form, **{name: facts[name] for name in _FACT_NAMES})
    except (pa.ArrowException, KeyError, TypeError, ValueError, AttributeError) as error:
        raise EvaluationError(
            f"the stored scores cannot be read ({error}): they count as absent; evaluate the version again",
            stage="answers",
        ) from error
    for item in found.items:
        if not (_is_number(item.score) and _is_number(item.loss) and item.scorer in _SCORERS):
            raise EvaluationError(
                f"the stored scores of item {item.item_id!r} are no numbers: evaluate the version again",
                stage="answers",
            )
    return found


def _schema(pa: Any) -> Any:
    return pa.schema(
        [
            pa.field("item_id", pa.string(), nullable=False),
            pa.field("slice", pa.string(), nullable=False),
            pa.field("scorer", pa.string(), nullable=False),
            pa.field("score", pa.float64(), nullable=False),
            pa.field("loss", pa.float64(), nullable=False),
            pa.field("num_tokens", pa.int64(), nullable=False),
            pa.field("said", pa.string(), nullable=False),
            pa.field(_GROUP, pa.string(), nullable=False),
        ]
    )


def _arrow() -> tuple[Any, Any]:
    # Fifty megabytes that only evaluating and promoting need.
    import pyarrow
    from pyarrow import parquet

    return pyarrow, parquet


def _is_number(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)
