"""Whose fault it is. Pure; standard library only."""

from __future__ import annotations

from enum import StrEnum


class Blame(StrEnum):
    """Who is at fault when a version does not come into service."""

    VERSION = "version"
    """The version itself, for every server and for good: its verified bytes, or the registry's own record of it, show
    it. Nothing else is ever held against a version."""
    POLICY = "policy"
    """Nobody: this box asks for more than others do, or has a lower limit."""
    BOX = "box"
    """This machine, its settings, its programs, or the process that was started on it."""
    STORE = "store"
    """The object store."""
    REGISTRY = "registry"
    """The registry."""
    MOMENT = "moment"
    """What was so just now: somebody else acted, time was up."""

    @property
    def may_pass(self) -> bool:
        """Whether another try, on this box and with these settings, may end otherwise."""
        return self not in (Blame.VERSION, Blame.POLICY)
