"""Scores as a file: what goes in comes out, and nothing that is no number ever does."""

from __future__ import annotations

import dataclasses
import io
import math
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.evaluation import scores
from pipeline.evaluation.results import Evaluation, ItemScore, metrics_of
from registry_hooks.errors import EvaluationError


def evaluation_of(*rows: tuple[str, float, float], **changes: Any) -> Evaluation:
    items = tuple(
        ItemScore(
            item_id=f"i{number}",
            slice=name,
            scorer="exact_match" if number % 2 == 0 else "accuracy",
            score=score,
            loss=loss,
            num_tokens=3,
            said="größe\n東京",
        )
        for number, (name, score, loss) in enumerate(rows)
    )
    facts: dict[str, Any] = {
        "test_set": "held-out",
        "test_set_digest": "d" * 64,
        "fingerprint": "f" * 64,
        "seconds": 1.5,
        "device": "cpu",
        "dtype": "float32",
        "form": {"chat template": "abc", "dtype": "float32"},
    }
    return Evaluation(items=items, **facts | changes)


FOUR = evaluation_of(("copy", 1.0, 0.1), ("copy", 0.0, 0.3), ("max", 0.0, 1 / 3), ("max", 1.0, 2.0))


def test_an_evaluation_comes_back_as_it_went() -> None:
    assert scores.from_parquet(scores.to_parquet(FOUR)) == FOUR


def test_groups_come_back_and_a_file_from_before_them_is_read() -> None:
    grouped = dataclasses.replace(FOUR, items=tuple(dataclasses.replace(item, group="g") for item in FOUR.items))
    data = scores.to_parquet(grouped)
    table = parquet.read_table(io.BytesIO(data)).drop_columns(["group"])
    older = io.BytesIO()
    parquet.write_table(table, older)

    assert scores.from_parquet(data) == grouped
    assert scores.from_parquet(older.getvalue()) == FOUR


def test_other_tools_can_read_the_file() -> None:
    table = parquet.read_table(io.BytesIO(scores.to_parquet(FOUR)))

    assert table.column("item_id").to_pylist() == ["i0", "i1", "i2", "i3"]
    assert table.column("score").to_pylist() == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("field", ["score", "loss"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_file_with_something_that_is_no_number_is_refused(field: str, value: float) -> None:
    broken = dataclasses.replace(FOUR.items[1], **{field: value})
    data = scores.to_parquet(dataclasses.replace(FOUR, items=(FOUR.items[0], broken)))

    with pytest.raises(EvaluationError, match="item 'i1' are no numbers"):
        scores.from_parquet(data)


def test_another_file_is_refused() -> None:
    sink = io.BytesIO()
    parquet.write_table(pa.table({"a": [1]}), sink)

    for data in (b"", b"PAR1 and no more", sink.getvalue()):
        with pytest.raises(EvaluationError, match="cannot be read"):
            scores.from_parquet(data)


def test_the_metrics_are_means_overall_and_of_each_slice() -> None:
    assert metrics_of(FOUR) == {
        "eval/exact_match": 0.5,
        "eval/accuracy": 0.5,
        "eval/loss": pytest.approx((0.1 + 0.3 + 1 / 3 + 2.0) / 4),
        "eval/exact_match/copy": 1.0,
        "eval/accuracy/copy": 0.0,
        "eval/loss/copy": pytest.approx(0.2),
        "eval/exact_match/max": 0.0,
        "eval/accuracy/max": 1.0,
        "eval/loss/max": pytest.approx(7 / 6),
    }


def test_a_kind_that_the_set_has_not_has_no_metric_and_one_slice_alone_is_not_repeated() -> None:
    assert set(metrics_of(evaluation_of(("all", 1.0, 0.1)))) == {"eval/exact_match", "eval/loss"}
