"""Names of metrics and params that come from outside: MLflow is told what it takes, what they were is on record."""

from __future__ import annotations

import json
import posixpath
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_hooks import contract, mlflow_names
from registry_hooks.mlflow_runs import MAX_RUN_TAG_CHARS, metric_entries, metrics_of, pairs, renaming_tag
from tests.contracts.registries import SAVED_AT


def takes(name: str) -> bool:
    """As MLflow's server checks it, but for the newline that its `$` lets stand at an end."""
    is_path = posixpath.normpath(name) == name and name != "." and not name.startswith(("..", "/"))
    return bool(re.fullmatch(r"[/\w.\- :]*", name)) and is_path and 0 < len(name) <= 250


@pytest.mark.parametrize("name", ["eval_loss", "eval/exact_match/copy", "a b:c-d.e_f", "größe"])
def test_a_name_that_mlflow_takes_stays(name: str) -> None:
    assert mlflow_names.taken(name) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("eval_accuracy@1", "eval_accuracy_1"),
        ("eval_f1(macro)", "eval_f1_macro_"),
        ("eval//x", "eval/_/x"),
        ("../up", "_/up"),
        ("/", "_/_"),
        ("", "_"),
    ],
)
def test_what_mlflow_refuses_is_called_almost_so(name: str, expected: str) -> None:
    assert mlflow_names.taken(name) == expected


@given(st.lists(st.text(max_size=300)))
def test_every_name_is_one_that_mlflow_takes_and_no_two_are_the_same(names: list[str]) -> None:
    chosen = mlflow_names.renamed(names)

    assert all(takes(name) for name in chosen.values())
    assert len(set(chosen.values())) == len(set(names))
    assert all(chosen[name] == name for name in names if takes(name))


def test_a_name_that_was_there_keeps_its_name_beside_one_that_becomes_like_it() -> None:
    assert mlflow_names.renamed(["a@1", "a_1", "a#1"]) == {"a@1": "a_1_3", "a_1": "a_1", "a#1": "a_1_2"}


def test_metrics_are_read_by_the_names_that_they_had() -> None:
    metrics = {"eval_accuracy@1": 0.5, "eval_loss": 1.0, "eval/x@/y": 2.0}
    told = [{"key": entry["key"], "value": entry["value"]} for entry in metric_entries(metrics, at=SAVED_AT)]
    tag = {"key": contract.TAG_RENAMED, "value": renaming_tag([*metrics, "dtype"])}

    assert all(takes(str(entry["key"])) for entry in told)
    assert json.loads(tag["value"]) == {"eval_accuracy_1": "eval_accuracy@1", "eval/x_/y": "eval/x@/y"}
    assert metrics_of({"data": {"metrics": told, "tags": [tag]}}) == metrics


def test_nothing_is_on_record_where_nothing_was_changed_and_what_is_has_a_bound() -> None:
    many = renaming_tag(f"{n}@{'x' * 100}" for n in range(500))

    assert renaming_tag(["eval_loss", "step"]) == ""
    assert len(many) <= MAX_RUN_TAG_CHARS
    assert json.loads(many)


@pytest.mark.parametrize("text", ["no json", "[1]"])
def test_a_record_that_a_person_changed_harms_nothing(text: str) -> None:
    tag = {"key": contract.TAG_RENAMED, "value": text}

    assert metrics_of({"data": {"metrics": [{"key": "a_1", "value": 1}], "tags": [tag]}}) == {"a_1": 1.0}


def test_params_are_told_so_too() -> None:
    assert pairs({"lr@0": "1"}, 10) == [{"key": "lr_0", "value": "1"}]
