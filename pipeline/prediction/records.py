"""What the client hands to its user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

# What the gateway calls each outcome of a reload after which the alias's version is in service.
_GOOD_RELOADS = ("reloaded", "unchanged", "planned")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which version answered, from the headers of the answer.

    Attributes:
        version: Model version in the registry; None when the server is not Relay's.
        step: Optimizer step of the checkpoint; None for a version that Relay did not publish.
        digest: The first 12 digits of the manifest's sha256.
    """

    model: str | None
    version: int | None
    step: int | None
    digest: str | None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Origin:
        """Read the `x-relay-*` headers; what is missing or is no number stays None."""
        return cls(
            model=headers.get("x-relay-model"),
            version=_whole(headers.get("x-relay-version")),
            step=_whole(headers.get("x-relay-step")),
            digest=headers.get("x-relay-digest"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAnswer:
    """A whole answer. `str()` of it is the text.

    Attributes:
        finish_reason: `stop`, or `length` when `max_tokens` cut it.
        fingerprint: Names version and weights, such as `mv12-67a621d3`.
        num_prompt_tokens: None when the server did not count.
        request_id: What the server's log calls this request.
    """

    text: str
    finish_reason: str | None
    model: str | None
    version: int | None
    step: int | None
    digest: str | None
    fingerprint: str | None
    num_prompt_tokens: int | None
    num_answer_tokens: int | None
    request_id: str | None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo(Mapping[str, object]):
    """What the server serves, and why; also a mapping with every field of `/models/info`.

    Attributes:
        loaded: Whether a model answers now.
        desired_version: What the alias names; None when it names nothing or the registry is silent.
        behind_s: For how long the alias has named something else than what is served.
        reason: Why the desired version is served, or why it is not.
    """

    loaded: bool
    server: str
    name: str
    alias: str
    version: int | None
    step: int | None
    fingerprint: str | None
    desired_version: int | None
    registry_answers: bool
    behind_s: float
    reason: str
    fields: Mapping[str, object] = field(repr=False)

    @classmethod
    def of(cls, document: Mapping[str, object]) -> ModelInfo:
        """The record of a `/models/info` document."""
        behind = document.get("behind_s")
        return cls(
            loaded=document.get("loaded") is True,
            server=str(document.get("server", "")),
            name=str(document.get("name", "")),
            alias=str(document.get("alias", "")),
            version=_whole(document.get("version")),
            step=_whole(document.get("checkpoint_step")),
            fingerprint=_text(document.get("fingerprint")),
            desired_version=_whole(document.get("desired_version")),
            registry_answers=document.get("registry_answers") is True,
            behind_s=float(behind) if isinstance(behind, int | float) else 0.0,
            reason=str(document.get("reason", "")),
            fields=dict(document),
        )

    def __getitem__(self, key: str) -> object:
        return self.fields[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadOutcome:
    """What came of `reload_model`; true where nothing is left to be done.

    Attributes:
        status: `reloaded`, `unchanged`, `planned`, `pending`, `refused`, `declined`, `failed`,
            `no_alias`, `registry_unreachable`.
        version: What is served now.
        action: What a dry run found: `keep`, `load`, `fliptowarm`, `restart`, `bootfromcache`.
        plan: How a dry run would start it; None when there is nothing to start.
    """

    status: str
    reason: str
    version: int | None
    step: int | None
    desired_version: int | None
    vram_usage_gb: float
    action: str | None
    plan: Mapping[str, object] | None

    def __bool__(self) -> bool:
        return self.status in _GOOD_RELOADS

    @classmethod
    def of(cls, document: Mapping[str, object]) -> ReloadOutcome:
        """The record of a `/models/reload` document."""
        vram, plan = document.get("vram_usage_gb"), document.get("plan")
        return cls(
            status=str(document.get("status", "")),
            reason=str(document.get("reason", "")),
            version=_whole(document.get("version")),
            step=_whole(document.get("checkpoint_step")),
            desired_version=_whole(document.get("desired_version")),
            vram_usage_gb=float(vram) if isinstance(vram, int | float) else 0.0,
            action=_text(document.get("action")),
            plan=plan if isinstance(plan, Mapping) else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether the server answers requests; true when a model does.

    Attributes:
        is_alive: Whether the server's process answers at all.
        is_ready: Whether a model answers.
    """

    is_alive: bool
    is_ready: bool
    reason: str

    def __bool__(self) -> bool:
        return self.is_ready


def _whole(value: object) -> int | None:
    if isinstance(value, str):
        return int(value) if value.isdecimal() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
