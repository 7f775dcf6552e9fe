"""A policy is what the file says, and one that contradicts itself is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.promotion.policy import Policy, load_policy, parse_policy
from registry_hooks.errors import SettingsError


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_the_defaults_hold() -> None:
    policy = load_policy(None)

    assert (policy.primary, policy.alpha, policy.min_effect) == ("exact_match", 0.05, 0.005)
    assert (policy.max_candidates, policy.num_flips, policy.slice_alpha) == (6, 4000, 0.05)
    assert (policy.score_metric, policy.lower_is_better, policy.min_delta) == ("eval_loss", True, 0.0)
    assert (policy.guardrail_loss_margin_nats, policy.guardrail_forbids) == (0.02, "shown_rise")
    assert policy.slice_min_harm == 0.005


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    policy = load_policy(written(tmp_path, "primary: loss\nalpha: 1e-2\nmin_delta: 0.01\n"))

    assert policy == Policy(primary="loss", alpha=0.01, min_delta=0.01)


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_policy(written(tmp_path, "# nothing yet\n")) == Policy()


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("alpha: 0", "alpha", "greater than 0"),
        ("alpha: 1", "alpha", "less than 1"),
        ("alpha: .nan", "alpha", "finite"),
        ("min_effect: -0.1", "min_effect", "greater than or equal to 0"),
        ("min_effect: 1.0", "min_effect", "share of the items"),
        ("max_candidates: 0", "max_candidates", "greater than or equal to 1"),
        ("num_flips: 10", "num_flips", "nothing could ever be promoted"),
        ("alpha: 0.0001", "num_flips", "nothing could ever be promoted"),
        ("slice_alpha: 0", "slice_alpha", "greater than 0"),
        ("guardrail_alpha: 1", "guardrail_alpha", "less than 1"),
        ("guardrail_loss_margin_nats: -1", "guardrail_loss_margin_nats", "greater than or equal to 0"),
        ("guardrail_forbids: rise", "guardrail_forbids", "'shown_rise' or 'possible_rise'"),
        ("slice_min_harm: -1", "slice_min_harm", "greater than or equal to 0"),
        ("min_delta: -1", "min_delta", "greater than or equal to 0"),
        ("score_metric: ''", "score_metric", "at least 1 character"),
        ("primary: accuracy", "primary", "'exact_match' or 'loss'"),
        ("aplha: 0.05", "aplha", "did you mean alpha"),
        ("zzzzqqqq: 1", "zzzzqqqq", "keys are primary, alpha"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused_with_key_and_reason(
    tmp_path: Path, text: str, key: str, reason: str
) -> None:
    path = written(tmp_path, text)

    with pytest.raises(SettingsError) as caught:
        load_policy(path)

    message = str(caught.value)
    assert f"{key}:" in message
    assert reason in message
    assert str(path) in message
    assert "Nothing was decided" in message


def test_min_effect_of_a_loss_may_be_above_one() -> None:
    assert parse_policy({"primary": "loss", "min_effect": 1.5}, origin="here").min_effect == 1.5


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"- alpha", "must hold keys"), (b"alpha: [", "cannot be read"), (b"\xff\xfe\xff", "cannot be read")],
)
def test_a_file_that_is_no_policy_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(content)

    with pytest.raises(SettingsError, match=words):
        load_policy(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.yaml cannot be read, nothing was decided"):
        load_policy(tmp_path / "absent.yaml")


def test_equal_policies_have_equal_digests_however_they_were_written(tmp_path: Path) -> None:
    written_out = load_policy(written(tmp_path, "num_flips: '4000'\nalpha: 5.0e-2\n"))

    assert written_out.digest == Policy().digest
    assert len(Policy().digest) == 16
    assert Policy(alpha=0.04).digest != Policy().digest


def test_every_key_is_described() -> None:
    assert all(field.description for field in Policy.model_fields.values())
