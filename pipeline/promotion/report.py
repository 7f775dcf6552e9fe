"""A decision for programs and for people: a JSON document of every number, and Markdown for a version's description."""

from __future__ import annotations

import math
from dataclasses import asdict
from enum import Enum

from pipeline.promotion import wording
from pipeline.promotion.verdicts import CandidateReport, Comparison, Decision, ScalarReport, SliceReport, Verdict

FORMAT = 1
MAX_CHARACTERS = 4500
_MAX_SENTENCE, _MAX_URL = 800, 1500
_SLICE_HEAD = "| slice | items | better / worse | difference | harm (p, corrected) |\n|---|---|---|---|---|"


def to_document(decision: Decision) -> dict[str, object]:
    """Every number, bound and threshold of a decision, ready for `json.dumps`.

    A number that is not finite becomes None, as JSON has no other word for it.
    """
    policy = {"policy": decision.policy.model_dump(mode="json"), "policy_digest": decision.policy.digest}
    return {key: _plain(value) for key, value in {"format": FORMAT, **asdict(decision), **policy}.items()}


def to_markdown(decision: Decision, report: CandidateReport | ScalarReport, *, compare_url: str | None = None) -> str:
    """Why one version was or was not promoted, in words and at most 4500 characters.

    Args:
        decision: In which it took part.
        report: Of that version.
        compare_url: Link to MLflow's Compare page.
    """
    head = [_headline(decision, report), _cut(_reason(decision, report))]
    numbers = report.comparison if isinstance(report, CandidateReport) else None
    head += _numbers(decision, numbers) if numbers else []
    tail = _thresholds(decision)
    tail += [f"[Compare it in MLflow]({compare_url})"] if compare_url and len(compare_url) <= _MAX_URL else []
    room = MAX_CHARACTERS - sum(len(part) + 2 for part in (*head, *tail))
    table = _slice_table(numbers.slices, decision, room=room) if numbers else []
    return "\n\n".join([*head, *table, *tail])


def _plain(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value


def _headline(decision: Decision, report: CandidateReport | ScalarReport) -> str:
    if report.version == decision.winner:
        return f"**Promoted**: version {report.version} in place of version {decision.incumbent}."
    state = {Verdict.INCONCLUSIVE: "Not promoted, undecided", Verdict.ERROR: "Not decided"}
    return f"**{state.get(decision.verdict, 'Not promoted')}**: version {report.version} against version " + (
        f"{decision.incumbent}, which keeps the alias."
        if decision.winner is None
        else f"{decision.incumbent}; version {decision.winner} was promoted."
    )


def _reason(decision: Decision, report: CandidateReport | ScalarReport) -> str:
    return report.why_not or decision.because


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SENTENCE else f"{text[: _MAX_SENTENCE - 1]}…"


def _numbers(decision: Decision, numbers: Comparison) -> list[str]:
    primary, policy = decision.policy.primary, decision.policy
    what = "Exact answers" if primary == "exact_match" else "Mean loss per item"
    lines = [
        f"- {what}: {wording.mean(numbers.candidate_mean, primary=primary)} against "
        f"{wording.mean(numbers.incumbent_mean, primary=primary)} on the same {numbers.num_items:,} items; better on "
        f"{numbers.num_better:,}, worse on {numbers.num_worse:,}.",
        f"- Difference (+ is better): {wording.signed(numbers.difference, primary=primary)}, with "
        f"{(1 - policy.alpha) * 100:.4g} % confidence at least {_bound(numbers.lower_bound, decision)}.",
        f"- Chance that equal models would look this good: {wording.probability(numbers.p_adjusted)} "
        f"({_compared(decision)}, and that is allowed for).",
    ]
    if numbers.guardrail:
        loss = numbers.guardrail
        sure = f"{(1 - policy.guardrail_alpha) * 100:.4g} % confidence"
        upper, lower = _nats(loss.upper_bound_nats), _nats(loss.lower_bound_nats)
        lines.append(
            f"- Loss per item (- is better): {loss.difference_nats:+.4f} nats, with {sure} at most {upper}, and with "
            f"{sure} at least {lower}."
        )
    else:
        lines.append("- Loss per item was not measured, so its guardrail was not applied.")
    return ["\n".join(lines)]


def _compared(decision: Decision) -> str:
    number = sum(isinstance(one, CandidateReport) and one.comparison is not None for one in decision.reports)
    return "1 candidate was compared" if number == 1 else f"{number} candidates were compared"


def _bound(value: float, decision: Decision) -> str:
    return wording.signed(value, primary=decision.policy.primary) if math.isfinite(value) else "unknown (one item)"


def _nats(value: float) -> str:
    return f"{value:+.4f} nats" if math.isfinite(value) else "unknown (one item)"


def _slice_table(slices: tuple[SliceReport, ...], decision: Decision, *, room: int) -> list[str]:
    """The slices, those nearest to harm first, as many as there is room for."""
    rows: list[str] = []
    last = f"| … and {len(slices):,} more | | | | |"
    room -= len(_SLICE_HEAD) + len(last) + 2
    ordered = sorted(slices, key=lambda part: (part.p_harm, part.name))
    for place, part in enumerate(ordered):
        row = _slice_row(part, decision)
        room -= len(row) + 1
        if room < 0:
            rows.append(f"| … and {len(ordered) - place:,} more | | | | |")
            break
        rows.append(row)
    return ["\n".join([_SLICE_HEAD, *rows])]


def _slice_row(part: SliceReport, decision: Decision) -> str:
    name = wording.label(part.name).replace("\\", "\\\\").replace("|", "\\|")
    mark = " **worse**" if part.is_harmed else ""
    difference = wording.signed(part.difference, primary=decision.policy.primary)
    counts = f"{part.num_better:,} / {part.num_worse:,}"
    return f"| {name} | {part.num_items:,} | {counts} | {difference} | {wording.probability(part.p_harm_holm)}{mark} |"


def _thresholds(decision: Decision) -> list[str]:
    policy = decision.policy
    if decision.method == "point estimate":
        direction = "lower" if policy.lower_is_better else "higher"
        return [
            f"Decided on one number, `{policy.score_metric}` ({direction} is better): a point estimate, which says "
            f"nothing of how far it is luck. Needed: a gain above 0 and of at least {policy.min_delta:g}."
        ]
    min_harm = wording.amount(policy.slice_min_harm, primary=policy.primary)
    return [
        f"Needed: a chance of at most {policy.alpha:g} that equal models look this good; a gain of at least "
        f"{wording.amount(policy.min_effect, primary=policy.primary)}; no slice with a corrected p of harm at most "
        f"{policy.slice_alpha:g} and a harm of at least {min_harm}; "
        f"a rise of the loss by more than {policy.guardrail_loss_margin_nats:g} nats "
        f"{'not shown' if policy.guardrail_forbids == 'shown_rise' else 'ruled out'}. "
        f"Method: {decision.method}, {policy.num_flips:,} flips, seed {policy.seed}; policy {policy.digest}."
    ]
