"""A decision's record: every number for programs, the reason in words for people."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.promotion import wording
from pipeline.promotion.deciding import decide
from pipeline.promotion.detectable import smallest_difference_lines
from pipeline.promotion.policy import Policy
from pipeline.promotion.report import MAX_CHARACTERS, to_document, to_markdown
from pipeline.promotion.scalar import ScalarScore, decide_scalar
from pipeline.promotion.scores import Scores
from pipeline.promotion.verdicts import Decision

Build = Callable[..., Scores]


@pytest.fixture
def decided(scored: Build) -> Decision:
    """Version 2 wins, version 3 is worse, version 4 is broken."""
    slices = ["add", "copy"] * 50
    base = [0.0, 1.0] * 50
    better, worse = np.array(base), np.array(base)
    better[:40:2], worse[1:41:2] = 1.0, 0.0
    losses = np.linspace(1, 2, 100)
    rivals = [
        scored(2, better.tolist(), slices=slices, losses=losses - 0.01),
        scored(3, worse.tolist(), slices=slices, losses=losses + 0.5),
        scored(4, [math.nan] * 100, slices=slices, losses=losses),
    ]
    return decide(scored(1, base, slices=slices, losses=losses), rivals, policy=Policy())


def test_the_document_holds_every_number_and_threshold_as_json(decided: Decision) -> None:
    document = json.loads(json.dumps(to_document(decided), allow_nan=False))

    assert (document["format"], document["verdict"], document["winner"], document["incumbent"]) == (1, "PROMOTE", 2, 1)
    assert document["policy"] == Policy().model_dump(mode="json")
    assert document["policy_digest"] == Policy().digest
    winner = document["reports"][0]
    assert winner["comparison"]["difference"] == pytest.approx(0.2)
    assert winner["comparison"]["slices"][0]["name"] == "add"
    assert winner["comparison"]["guardrail"]["margin_nats"] == 0.02
    assert document["reports"][2]["comparison"] is None


def test_a_bound_that_is_not_finite_becomes_null(scored: Build) -> None:
    decision = decide(scored(1, [0.5], losses=[1.0]), [scored(2, [0.7], losses=[1.0])], policy=Policy())

    document = to_document(decision)
    text = to_markdown(decision, decision.reports[0])

    assert '"lower_bound": null' in json.dumps(document, allow_nan=False)
    assert text.count("unknown (one item)") == 3


def test_the_winner_is_told_why_it_won(decided: Decision) -> None:
    text = to_markdown(decided, decided.reports[0], compare_url="http://mlflow/compare?x=1")

    assert text.startswith("**Promoted**: version 2 in place of version 1.")
    assert "20.0 points better than version 1" in text
    assert "70.0 % against 50.0 %" in text
    assert "better on 20, worse on 0" in text
    assert "| add | 50 | 20 / 0 | +40.0 points | 1.0000 |" in text
    assert "2 candidates were compared" in text
    assert "-0.0100 nats, with 95 % confidence at most -0.0100 nats" in text
    assert text.endswith("[Compare it in MLflow](http://mlflow/compare?x=1)")


def test_a_loser_is_told_why_it_lost(decided: Decision) -> None:
    worse, broken = (to_markdown(decided, report) for report in decided.reports[1:])

    assert worse.startswith("**Not promoted**: version 3 against version 1; version 2 was promoted.")
    assert "20.0 points worse; there is evidence that it is worse on copy; its loss rises by more than" in worse
    assert "| copy | 50 | 0 / 20 | -40.0 points | below 0.0001 **worse** |" in worse
    assert "It cannot win: 100 of its 100 scores are not finite numbers." in broken
    assert "| slice |" not in broken
    assert "Compare it" not in worse


def test_an_undecided_candidate_and_one_in_an_error_are_told_apart(scored: Build) -> None:
    base, luckier = [0.0] * 50, [1.0] * 2 + [0.0] * 48
    undecided = decide(scored(1, base), [scored(2, luckier)], policy=Policy())
    error = decide(scored(1, base), [scored(2, luckier, fingerprint="other")], policy=Policy())

    said, failed = (to_markdown(one, one.reports[0]) for one in (undecided, error))

    assert said.startswith("**Not promoted, undecided**: version 2 against version 1, which keeps the alias.")
    assert "Loss per item was not measured" in said
    assert failed.startswith("**Not decided**: version 2 against version 1, which keeps the alias.")
    assert "fingerprint other and same" in failed


def test_a_description_stays_short_however_many_slices_there_are(scored: Build) -> None:
    n = 400
    slices = [f"{i:03}|\n" + "long name " * 20 for i in range(n)]
    values = [0.0] * 399 + [1.0]

    decision = decide(scored(1, values, slices=slices), [scored(2, values[::-1], slices=slices)], policy=Policy())
    text = to_markdown(decision, decision.reports[0], compare_url="http://mlflow/" + "r" * 1400)
    overlong = to_markdown(decision, decision.reports[0], compare_url="http://mlflow/" + "r" * 5000)

    assert len(text) <= MAX_CHARACTERS
    assert len(text) > MAX_CHARACTERS - 200
    assert "more | | | | |" in text
    assert "| 399\\| long name" in text.split("|---|")[-1].split("\n")[1]  # the one that got worse comes first
    assert "Compare it in MLflow" in text
    assert "Compare it in MLflow" not in overlong


def test_a_reason_of_any_length_is_cut(scored: Build) -> None:
    slices = [f"slice-{i % 6}-{'x' * 60}" for i in range(120)]
    decision = decide(
        scored(1, [1.0] * 120, slices=slices, fingerprint="a" * 9000),
        [scored(v, [0.0] * 120, item_ids=[f"{v}-{i}-{'y' * 900}" for i in range(120)]) for v in range(2, 8)],
        policy=Policy(),
    )

    text = to_markdown(decision, decision.reports[0])

    assert "…" in text
    assert len(text) <= MAX_CHARACTERS


def test_a_point_estimate_is_said_to_be_one() -> None:
    base, better = (ScalarScore(version=v, step=None, value=x) for v, x in ((1, 2.0), (2, 1.0)))
    lower = decide_scalar(base, [better], policy=Policy())
    higher = decide_scalar(base, [better], policy=Policy(lower_is_better=False))

    won, lost = (to_markdown(one, one.reports[0]) for one in (lower, higher))

    assert "`eval_loss` (lower is better): a point estimate" in won
    assert "(higher is better)" in lost
    assert json.loads(json.dumps(to_document(lower), allow_nan=False))["method"] == "point estimate"


def test_losses_are_said_in_nats(scored: Build) -> None:
    base = np.random.default_rng(0).normal(2, 0.1, 50)

    decision = decide(scored(1, base), [scored(2, base - 0.25)], policy=Policy(primary="loss"))

    text = to_markdown(decision, decision.reports[0])
    assert "Mean loss per item" in text
    assert "+0.2500 nats" in text


@pytest.mark.parametrize(
    ("difference", "words"), [(0.012, "1.2 points better"), (-0.012, "1.2 points worse"), (0.0, "exactly equal")]
)
def test_a_difference_is_said_in_points(difference: float, words: str) -> None:
    assert wording.gain(difference, primary="exact_match") == words


def test_the_promoter_says_what_the_set_can_show() -> None:
    lines = smallest_difference_lines(1500, {"add": 750, "copy": 750}, Policy())

    assert len(lines) == 3
    assert "1 candidate: the smallest gain shown in 80 of 100 decisions is 1.4 points if 5% of the items" in lines[0]
    assert "6 candidates:" in lines[1]


def test_one_candidate_at_a_time_is_one_line() -> None:
    assert len(smallest_difference_lines(1500, {}, Policy(max_candidates=1))) == 2


def test_the_promoter_says_what_the_guardrail_stops() -> None:
    """0.02 + (1.645 + 0.842) sd / sqrt(1000)."""
    line = smallest_difference_lines(1000, {}, Policy())[2]

    assert "stops a rise of the mean loss by 0.0279 and 0.0593 nats in 80 of 100 decisions" in line
    assert "spread by 0.1 and 0.5 nats" in line


def test_a_strict_guardrail_that_stops_for_nothing_is_warned_of() -> None:
    """Phi(0.02 sqrt(1000) / sd - 1.645)."""
    strict = Policy(guardrail_forbids="possible_rise")
    [line] = [one for one in smallest_difference_lines(1000, {}, strict) if "guardrail" in one]
    [enough] = [one for one in smallest_difference_lines(20_000, {}, strict) if "guardrail" in one]

    assert line.startswith(
        "Warning: The guardrail lets a candidate whose mean loss is unchanged pass in 100 and 35 of 100"
    )
    assert "guardrail_forbids: shown_rise" in line
    assert not enough.startswith("Warning")


def test_min_effect_raises_the_smallest_gain() -> None:
    """The point estimate must reach min_effect in 80 of 100 decisions as well: 0.1 + 0.84 sqrt(0.05 / 1500)."""
    line = smallest_difference_lines(1500, {}, Policy(max_candidates=1, min_effect=0.1))[0]

    assert "10.5 points if 5%" in line


def test_a_small_set_is_warned_of() -> None:
    lines = smallest_difference_lines(200, {"add": 196, "copy": 4}, Policy())

    assert "out of reach if 5%" in lines[1]
    assert "3 points better would be promoted in about 29 of 100 decisions" in lines[3]
    assert lines[4] == "Warning: slices with fewer than 6 items can never show harm (copy)."


def test_a_set_that_can_never_show_anything_is_warned_of() -> None:
    assert "4 items can never show a gain at alpha 0.05; at least 5" in smallest_difference_lines(4, {}, Policy())[3]
    assert smallest_difference_lines(0, {}, Policy()) == [
        "Warning: the test set is empty, so nothing can ever be promoted."
    ]


def test_a_policy_that_wants_more_than_three_points_is_not_warned_for_them() -> None:
    assert not any("Warning" in line for line in smallest_difference_lines(200, {}, Policy(min_effect=0.1)))


def test_many_blind_slices_are_cut_short() -> None:
    [*_, line] = smallest_difference_lines(1500, {f"s{i}": 1 for i in range(9)}, Policy())

    assert "(s0, s1, s2, s3, s4…)" in line


def test_a_loss_has_no_discordance_but_a_spread() -> None:
    lines = smallest_difference_lines(300, {}, Policy(primary="loss"))

    assert "0.0144 nats if the differences per item spread by 0.1 nats" in lines[0]
    assert len(lines) == 2
