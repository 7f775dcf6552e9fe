"""The promotion policy: what has to be shown before the alias moves. One flat YAML file; every key has a default."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from registry_hooks.errors import SettingsError

Primary = Literal["exact_match", "loss"]
GuardrailForbids = Literal["shown_rise", "possible_rise"]


class Policy(BaseModel):
    """What has to be shown before the alias moves.

    Made by `load_policy` or `parse_policy`, which refuse a policy that contradicts itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    primary: Primary = Field(
        "exact_match", description="The score that decides: share of exact answers, or loss per item in nats."
    )
    alpha: float = Field(
        0.05, gt=0, lt=1, description="Share of decisions that may promote one of several equal candidates by luck."
    )
    min_effect: float = Field(
        0.005, ge=0, description="Smallest mean gain worth a move: share of items for exact_match, nats for loss."
    )
    max_candidates: int = Field(6, ge=1, le=64, description="Candidates in one decision; each costs power.")
    num_flips: int = Field(4000, ge=1, le=1_000_000, description="Random sign flips behind the p-values.")
    slice_alpha: float = Field(
        0.05, gt=0, lt=1, description="Evidence of harm in a slice, over all slices together (Holm), that forbids."
    )
    slice_min_harm: float = Field(
        0.005, ge=0, description="Smallest mean harm in a slice that forbids: share of items, or nats for loss."
    )
    guardrail_loss_margin_nats: float = Field(
        0.02, ge=0, description="Rise of the mean loss per item, in nats, that the guardrail lets pass."
    )
    guardrail_forbids: GuardrailForbids = Field(
        "shown_rise",
        description="What forbids: a larger rise that is shown, or, much stricter, one that is merely possible.",
    )
    guardrail_alpha: float = Field(
        0.05, gt=0, lt=1, description="Chance that the guardrail errs where the loss rises by exactly its margin."
    )
    score_metric: str = Field(
        "eval_loss", min_length=1, description="The metric that decides where there are no scores per item."
    )
    lower_is_better: bool = Field(True, description="Whether a smaller score_metric is a better one.")
    min_delta: float = Field(
        0.0,
        ge=0,
        description="Smallest gain in score_metric, in its own unit, worth a move; it must be above 0 anyway.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Of the sign flips: one seed, one decision.")

    @property
    def digest(self) -> str:
        """First 16 hex digits of the sha256 of all keys; equal policies have equal ones however they were written."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @model_validator(mode="after")
    def _can_be_met(self) -> Policy:
        if 1 / (self.num_flips + 1) > self.alpha:
            raise ValueError(
                f"num_flips: {self.num_flips} flips give no p-value below 1/{self.num_flips + 1}, and alpha is "
                f"{self.alpha:g}, so nothing could ever be promoted; take more flips, 4000 say"
            )
        if self.primary == "exact_match" and self.min_effect >= 1:
            raise ValueError(
                f"min_effect: {self.min_effect:g} is a share of the items for exact_match and must be below 1; "
                "half a point is 0.005"
            )
        return self


def load_policy(path: Path | None) -> Policy:
    """Read a policy; None gives the defaults.

    Raises:
        SettingsError: A file that cannot be read, an unknown key (the nearest right one is named), a value out of
            range, or keys that contradict each other.
    """
    if path is None:
        return Policy()
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"policy {path} cannot be read, nothing was decided: {error}") from error
    document = {} if document is None else document
    if not isinstance(document, dict):
        raise SettingsError(
            f"policy {path} must hold keys with values, such as `alpha: 0.05`, and holds something else; "
            "nothing was decided"
        )
    return parse_policy({str(key): value for key, value in document.items()}, origin=f"policy {path}")


def parse_policy(values: Mapping[str, object], *, origin: str) -> Policy:
    """Make a policy of keys and values.

    Args:
        values: Keys that differ from the defaults.
        origin: Where they stand, for the message.

    Raises:
        SettingsError: As `load_policy`.
    """
    try:
        return Policy.model_validate(values)
    except ValidationError as error:
        problems = [
            _explain(problem["loc"], problem["type"], problem["msg"])
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise SettingsError(f"{origin}: {'; '.join(problems)}. Nothing was decided; mend it and run again") from error


def _explain(place: tuple[int | str, ...], kind: str, message: str) -> str:
    key = ".".join(str(part) for part in place)
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(key, Policy.model_fields, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"keys are {', '.join(Policy.model_fields)}"
        return f"{key}: unknown key; {hint}"
    message = message.removeprefix("Value error, ")
    return f"{key}: {message}" if key else message
