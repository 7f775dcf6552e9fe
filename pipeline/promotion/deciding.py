"""The promotion rule on scores per item. Pure: scores and a policy go in, a decision with every number comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.promotion import choosing, scores, wording
from pipeline.promotion.comparing import compare
from pipeline.promotion.policy import Policy
from pipeline.promotion.scores import Scores
from pipeline.promotion.verdicts import CandidateReport, Comparison, Decision, Verdict

_NUM_NAMED = 3


def decide(incumbent: Scores, candidates: Sequence[Scores], *, policy: Policy) -> Decision:
    """Say whether one of the candidates deserves the alias, and why each of the others does not.

    A candidate passes when its gain is shown (adjusted for all candidates), is large enough to matter, no slice has
    evidence of harm, and its loss is not shown to rise by more than the margin (a strict policy: shown not to). Of
    those that pass within one paired standard error of the best, the earliest step wins. A score that is not finite
    never wins, and its report says so.

    Args:
        incumbent: Scores of what the alias names.
        candidates: At most `policy.max_candidates`, scored on the same items in the same way.
        policy: The thresholds.

    Returns:
        INCONCLUSIVE when a candidate is better on the point estimate and not shown worse anywhere; ERROR when no
        candidate can be compared with the incumbent, which says nothing about any of them. One that cannot beside
        others that can is left out, and its report says why.

    Raises:
        ValueError: More candidates than the policy allows (`preselect` chooses), or one version twice.
    """
    _check_call(candidates, policy)
    base = scores.by_item_id(incumbent)
    rivals = [scores.by_item_id(one) for one in candidates]
    problem = _what_forbids_comparing(base, rivals)
    if problem:
        return _no_decision(base, rivals, problem=problem, policy=policy)
    excluded = {one.version: reason for one in rivals if (reason := _what_excludes(base, one))}
    sound = [one for one in rivals if one.version not in excluded]
    compared = compare(base, sound, policy=policy) if sound else ()
    comparisons = {one.version: result for one, result in zip(sound, compared, strict=True)}
    failures = {version: choosing.failures(result, policy=policy) for version, result in comparisons.items()}
    passing = [one for one in sound if not failures[one.version]]
    winner = choosing.take(passing, comparisons, policy=policy).version if passing else None
    why_not = {version: f"it cannot win: {reason}" for version, reason in excluded.items()}
    why_not |= {version: "; ".join(clauses) for version, clauses in failures.items() if clauses}
    if winner is not None:
        why_not |= _passed_over(passing, comparisons, winner=winner, policy=policy)
    verdict = _verdict(winner, comparisons)
    because = _because(verdict, comparisons, winner=winner, incumbent=base.version, policy=policy)
    return Decision(
        verdict=verdict,
        winner=winner,
        because=wording.sentence(because + _about_excluded(excluded)),
        reports=_reports(rivals, comparisons, why_not),
        method="paired sign-flip max-T",
        incumbent=base.version,
        incumbent_value=float(base.values.mean()),
        num_items=len(base.item_ids),
        fingerprint=base.fingerprint,
        policy=policy,
    )


def _check_call(candidates: Sequence[Scores], policy: Policy) -> None:
    if len(candidates) > policy.max_candidates:
        raise ValueError(f"{len(candidates)} candidates, and the policy compares at most {policy.max_candidates}")
    versions = [one.version for one in candidates]
    if len(set(versions)) < len(versions):
        raise ValueError(f"a version stands twice among the candidates: {versions}")


def _what_forbids_comparing(base: Scores, rivals: Sequence[Scores]) -> str:
    if not base.item_ids:
        return f"the test set is empty: version {base.version} was scored on no item"
    reason = scores.unusable(base)
    own = [f"version {base.version}, which holds the alias, cannot be compared: {reason}"] if reason else []
    odd = [scores.repeated(one) or scores.mismatch(base, one) for one in rivals]
    own += odd if all(odd) else []  # where one fits, the others are odd; where none does, nobody knows who is
    found = [problem for problem in (scores.repeated(base), *own) if problem]
    more = len(found) - _NUM_NAMED
    return "; ".join([*found[:_NUM_NAMED], *([f"and {more} more such problems"] if more > 0 else [])])


def _what_excludes(base: Scores, rival: Scores) -> str:
    if problem := scores.repeated(rival) or scores.mismatch(base, rival):
        return f"it cannot be compared: {problem}"
    return scores.unusable(rival)


def _no_decision(base: Scores, rivals: Sequence[Scores], *, problem: str, policy: Policy) -> Decision:
    because = f"nothing was decided and the alias stays: {problem}"
    return Decision(
        verdict=Verdict.ERROR,
        winner=None,
        because=wording.sentence(f"{because}; score all of them anew on one test set"),
        reports=_reports(rivals, {}, {one.version: because for one in rivals}),
        method="paired sign-flip max-T",
        incumbent=base.version,
        incumbent_value=None,
        num_items=len(base.item_ids),
        fingerprint=base.fingerprint,
        policy=policy,
    )


def _passed_over(
    passing: Sequence[Scores], comparisons: Mapping[int, Comparison], *, winner: int, policy: Policy
) -> dict[int, str]:
    return {
        one.version: choosing.passed_over(
            comparisons[winner], comparisons[one.version], winner_version=winner, policy=policy
        )
        for one in passing
        if one.version != winner
    }


def _reports(
    rivals: Sequence[Scores], comparisons: Mapping[int, Comparison], why_not: Mapping[int, str]
) -> tuple[CandidateReport, ...]:
    return tuple(
        CandidateReport(
            version=one.version,
            digest=one.digest,
            step=one.step,
            comparison=comparisons.get(one.version),
            why_not=wording.sentence(why_not.get(one.version, "")),
        )
        for one in rivals
    )


def _verdict(winner: int | None, comparisons: Mapping[int, Comparison]) -> Verdict:
    if winner is not None:
        return Verdict.PROMOTE
    return Verdict.INCONCLUSIVE if any(_may_be_better(one) for one in comparisons.values()) else Verdict.KEEP


def _may_be_better(result: Comparison) -> bool:
    is_worse_somewhere = any(part.is_harmed for part in result.slices) or bool(
        result.guardrail and result.guardrail.is_worse
    )
    return result.difference > 0 and not is_worse_somewhere


def _because(
    verdict: Verdict, comparisons: Mapping[int, Comparison], *, winner: int | None, incumbent: int, policy: Policy
) -> str:
    if not comparisons:
        return f"version {incumbent} stays: there is no candidate that can be compared with it"
    if winner is not None:
        result = comparisons[winner]
        p = wording.probability(result.p_adjusted)
        loss = _about_loss(result, policy) if result.guardrail else "was not measured"
        return (
            f"version {winner} is {wording.gain(result.difference, primary=policy.primary)} than version {incumbent} "
            f"on {result.num_items:,} items (adjusted p {p}, at most {policy.alpha:g} is needed), "
            f"no slice has evidence of harm, and its loss {loss}"
        )
    rivals = {v: one for v, one in comparisons.items() if verdict is Verdict.KEEP or _may_be_better(one)}
    best = min(rivals, key=lambda version: (-rivals[version].difference, version))
    result = rivals[best]
    seen = wording.gain(result.difference, primary=policy.primary)
    if result.difference <= 0:
        return f"version {incumbent} stays: no candidate is better; the nearest, version {best}, is {seen}"
    stays = "stays for now" if verdict is Verdict.INCONCLUSIVE else "stays"
    found = "; ".join(choosing.failures(result, policy=policy))
    return f"version {incumbent} {stays}: version {best} is {seen} on these items, but {found}"


def _about_loss(result: Comparison, policy: Policy) -> str:
    is_ruled_out = result.guardrail is not None and result.guardrail.is_noninferior
    margin = f"rise by more than {policy.guardrail_loss_margin_nats:g} nats"
    return f"is shown not to {margin}" if is_ruled_out else f"is not shown to {margin}"


def _about_excluded(excluded: Mapping[int, str]) -> str:
    named = [f"version {version} was left out because {reason}" for version, reason in excluded.items()]
    return "".join(f"; {text}" for text in named)
