"""A tag of the registry may say anything: what is no number stops nobody."""

from __future__ import annotations

import pytest

from registry_hooks import contract
from registry_hooks.records import ModelVersion


@pytest.mark.parametrize(
    ("said", "step"),
    [("0", 0), ("1200", 1200), ("9" * 18, 10**18 - 1), ("9" * 19, None), ("9" * 5000, None), ("-1", None), ("²", None)],
)
def test_a_step_that_is_no_number_of_steps_is_unknown(said: str, step: int | None) -> None:
    tags = {contract.TAG_STEP: said}
    version = ModelVersion(name="m", version=1, run_id=None, model_id=None, artifact_uri="s3://b/1", tags=tags)

    assert version.step == step


@pytest.mark.parametrize("said", [None, "", "٣", "1.5", "1e3", " 7"])
def test_only_plain_digits_are_a_number(said: str | None) -> None:
    assert contract.whole_number(said) is None
