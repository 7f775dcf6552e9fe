"""A hold or a freeze: a tag of the registered model that says who stops automation, why and since when. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from registry_hooks import contract

# Who moved the alias, where only the move was seen.
PERSON = "a person"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A hold or a freeze. A person may have typed the tag in MLflow's UI: then all of it is `why`."""

    who: str
    why: str
    since: str

    @property
    def was_noted(self) -> bool:
        """Whether the promoter set it, since somebody had moved the alias; all others a person set on purpose."""
        return self.who == PERSON

    @property
    def sentence(self) -> str:
        """For people."""
        told_by = ", ".join(part for part in (self.who, self.since) if part)
        return f"{self.why or 'no reason given'}{f' ({told_by})' if told_by else ''}"


def read_mark(text: str | None) -> Mark | None:
    """The hold or freeze that a tag tells of; None without one. Plain text of a person counts as well."""
    if text is None:
        return None
    try:
        told = json.loads(text)
        told = told if isinstance(told, Mapping) else {"why": text}
    except ValueError:
        told = {"why": text}
    return Mark(**{key: str(told.get(key) or "").strip() for key in ("who", "why", "since")})


def hold_of(tags: Mapping[str, str], alias: str) -> Mark | None:
    """What holds `alias`, by the tags of the registered model: its own hold, else the one of all aliases."""
    return read_mark(tags.get(contract.hold_tag(alias), tags.get(contract.TAG_HOLD)))


def freeze_of(tags: Mapping[str, str], alias: str) -> Mark | None:
    """The same for promotions alone."""
    return read_mark(tags.get(contract.freeze_tag(alias), tags.get(contract.TAG_FREEZE)))


def write_mark(*, who: str, why: str, since: datetime) -> str:
    """The value of the tag."""
    return json.dumps({"who": who, "why": why, "since": since.isoformat(timespec="seconds")})
