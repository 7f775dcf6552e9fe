"""What an error says about the version that was to be scored. Pure."""

from __future__ import annotations

from enum import StrEnum

from registry_hooks.errors import Blame, EvaluationError, RelayError, UnknownModelError, UserError, blame_of

# Where an evaluation stops before the version was looked at.
_BEFORE = ("room",)


class Fault(StrEnum):
    """Where the fault is."""

    GONE = "gone"
    """In the version alone: it, or the run to which its scores would belong, was deleted."""
    VERSION = "version"
    """In the version or, as far as one version can tell, in the test set: another try ends in the same way."""
    UNSURE = "unsure"
    """Nobody can tell: another try may go well, and a version with which none does is given up."""
    MOMENT = "moment"
    """Not in the version: this box, the store, the registry, the settings. Tried again for as long as it takes."""


def fault_of(error: RelayError) -> Fault:
    """Where the fault is, when a version could not be scored."""
    if isinstance(error, EvaluationError):
        if error.stage in _BEFORE:
            return Fault.MOMENT
        return Fault.UNSURE if error.transient else Fault.VERSION
    if isinstance(error, UnknownModelError) or type(error) is UserError:
        return Fault.GONE
    if blame_of(error) in (Blame.VERSION, Blame.POLICY):
        return Fault.VERSION
    return Fault.MOMENT if error.transient or isinstance(error, UserError) else Fault.UNSURE
