"""What a check finds, and what a check is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from registry_hooks.settings import Settings

Verdict = Literal["ok", "warning", "failed"]
Role = Literal["both", "training", "inference"]

_HIDDEN = "***"
# Shorter texts are no secrets worth the name, and hiding each place where they stand would hide half the page.
_MIN_SECRET_CHARS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found.

    Attributes:
        what: What is so, in one sentence.
        mend: The command or setting that mends it; empty when nothing is to be mended.
    """

    name: str
    verdict: Verdict
    what: str
    mend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One question to this box.

    Attributes:
        ask: Answers within the bound of `examine`, or is given up.
        mend_silence: What to do when it was given up.
        roles: The boxes for which it matters.
    """

    name: str
    ask: Callable[[Settings], Sequence[Finding]]
    mend_silence: str
    roles: tuple[Role, ...] = ("both", "training", "inference")


def ok(name: str, what: str) -> Finding:
    return Finding(name=name, verdict="ok", what=what)


def warning(name: str, what: str, mend: str) -> Finding:
    return Finding(name=name, verdict="warning", what=what, mend=mend)


def failed(name: str, what: str, mend: str) -> Finding:
    return Finding(name=name, verdict="failed", what=what, mend=mend)


def without_secrets(finding: Finding, secrets: Iterable[str]) -> Finding:
    """The same finding with each secret, and each password in a URL, hidden."""
    return replace(finding, what=_hide(finding.what, secrets), mend=_hide(finding.mend, secrets))


def _hide(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        if len(secret) >= _MIN_SECRET_CHARS:
            text = text.replace(secret, _HIDDEN)
    return re.sub(r"//[^/@\s]+@", f"//{_HIDDEN}@", text)
