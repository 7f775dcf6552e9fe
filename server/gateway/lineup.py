"""Which engines are alive, and which one answers: one pointer that flips.

The control loop changes the line-up, the event loop takes and gives back places in it. A request keeps the place that
it took until it ends, so it ends on the version it began on.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from registry_hooks.records import ModelVersion
from server.launcher import Engine

Leaving = Literal["", "replaced", "shutdown"]
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What an engine serves, and what is known about it.

    Attributes:
        directory: Folder that the engine loads.
        attested: Whether its bytes were checked against a manifest that the registry vouches for.
        score: The configured metric's value on this version's run; None when it has none.
    """

    version: ModelVersion
    digest: str
    directory: str
    attested: bool
    size_bytes: int
    score: float | None = None

    @property
    def key(self) -> tuple[int, str]:
        return identity(self.version)

    @property
    def fingerprint(self) -> str:
        """`system_fingerprint` of its answers: `mv<version>-<first 8 of the digest>`."""
        return f"mv{self.version.version}-{self.digest[:8]}"


def identity(version: ModelVersion) -> tuple[int, str]:
    """What must be equal for two sightings of a version to be one: a number is used again after a model is deleted."""
    return version.version, version.digest or version.artifact_uri


@dataclass(slots=True, kw_only=True, eq=False)
class Slot:
    """A live engine and the requests that it is answering.

    Attributes:
        leaving: Why it is to go, for those whose streams outlast that.
    """

    checkpoint: Checkpoint
    engine: Engine
    loaded_at: datetime
    in_flight: int = 0
    leaving: Leaving = ""
    number: int = field(default_factory=lambda: next(_numbers))

    def is_alive(self) -> bool:
        return self.engine.is_alive()


class LineUp:
    """The engines of one gateway: the current one and, warm beside it, the previous one."""

    def __init__(self, name: str, alias: str) -> None:
        self._name = name
        self._alias = alias
        self._changed = threading.Condition()
        self._current: Slot | None = None
        self._previous: Slot | None = None

    @property
    def label(self) -> tuple[str, str]:
        """The registered model and the alias that are followed."""
        return self._name, self._alias

    @property
    def current(self) -> Slot | None:
        return self._current

    @property
    def previous(self) -> Slot | None:
        return self._previous

    def flip(self, slot: Slot) -> Slot | None:
        """Send new requests to `slot`; what answered so far stays warm; the slot that must go now, if there is one."""
        with self._changed:
            leaving = self._previous if self._previous is not slot else None
            if self._current is not slot:
                self._previous, self._current = self._current, slot
            return leaving

    def replace_dead(self, slot: Slot) -> None:
        """Put a restarted engine of the same checkpoint in the place of the one that died."""
        with self._changed:
            self._current = slot

    def drop_previous(self) -> Slot | None:
        """Take the warm engine out of the line-up, to be retired; None when there is none."""
        with self._changed:
            leaving, self._previous = self._previous, None
            return leaving

    def take(self, model: str | None) -> Slot | None:
        """A place at the engine that `model` names, to be given back; None when none of that name is alive.

        Args:
            model: `NAME`, `NAME@Alias` or `NAME/VERSION`; None means the current one.
        """
        with self._changed:
            slot = self._named(model)
            if slot is None or not slot.is_alive():
                return None
            slot.in_flight += 1
            return slot

    def give_back(self, slot: Slot) -> None:
        """End a request's stay."""
        with self._changed:
            slot.in_flight -= 1
            self._changed.notify_all()

    def wait_drained(self, slot: Slot, timeout_s: float) -> bool:
        """Wait until a slot that left the line-up has no request any more."""
        with self._changed:
            return self._changed.wait_for(lambda: slot.in_flight == 0 or not slot.is_alive(), timeout_s)

    def knows(self, model: str | None) -> bool:
        """Whether `model` names something this gateway serves, alive at the moment or not."""
        with self._changed:
            return (
                model is None or model in (self._name, f"{self._name}@{self._alias}") or self._named(model) is not None
            )

    def names(self) -> Mapping[str, Slot]:
        """Every name that a client may use now, with its engine."""
        with self._changed:
            slots = {f"{s.checkpoint.version.label}": s for s in (self._current, self._previous) if s is not None}
            if self._current is not None:
                slots = {self._name: self._current, f"{self._name}@{self._alias}": self._current, **slots}
            return {name: slot for name, slot in slots.items() if slot.is_alive()}

    def _named(self, model: str | None) -> Slot | None:
        if model in (None, self._name, f"{self._name}@{self._alias}"):
            return self._current
        for slot in (self._current, self._previous):
            if slot is not None and slot.checkpoint.version.label == model:
                return slot
        return None
