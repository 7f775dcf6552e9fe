"""Every error of the one tree says who is at fault: nobody inherits blame by accident."""

from __future__ import annotations

from registry_hooks import errors
from registry_hooks.errors import Blame, RelayError

# Who is at fault when a version does not come into service for such an error. A new class is written down here by hand:
# `VERSION` only for what its verified bytes, or the registry's own record, show; only that is ever held against it.
BLAME = {
    errors.RelayError: Blame.MOMENT,
    errors.DeletedExperimentError: Blame.REGISTRY,
    errors.UserError: Blame.BOX,
    errors.SettingsError: Blame.BOX,
    errors.DeclinedError: Blame.POLICY,
    errors.NotACheckpointError: Blame.VERSION,
    errors.UnreadableFileError: Blame.BOX,
    errors.UnknownModelError: Blame.REGISTRY,
    errors.AccessDeniedError: Blame.BOX,
    errors.TestSetError: Blame.BOX,
    errors.PortInUseError: Blame.BOX,
    errors.RegistryError: Blame.REGISTRY,
    errors.RegistryUnavailableError: Blame.REGISTRY,
    errors.StoreError: Blame.STORE,
    errors.ObjectMissingError: Blame.STORE,
    errors.FileMissingError: Blame.VERSION,
    errors.ObjectChangedError: Blame.MOMENT,
    errors.TruncatedObjectError: Blame.VERSION,
    errors.ObjectTooLargeError: Blame.VERSION,
    errors.UnsupportedSourceError: Blame.VERSION,
    errors.CacheError: Blame.BOX,
    errors.StoreUnavailableError: Blame.STORE,
    errors.FetchCancelledError: Blame.MOMENT,
    errors.VerificationError: Blame.VERSION,
    errors.ManifestError: Blame.VERSION,
    errors.CorruptFileError: Blame.VERSION,
    errors.GoldenMismatchError: Blame.VERSION,
    errors.EvaluationError: Blame.MOMENT,
    errors.StackError: Blame.BOX,
    errors.EngineError: Blame.BOX,
    errors.EngineStartError: Blame.BOX,
    errors.EngineRefusedError: Blame.BOX,
    errors.StartCancelledError: Blame.MOMENT,
    errors.StartCancelledError: Blame.MOMENT,
    errors.EngineGoneError: Blame.BOX,
}


def tree(top: type[RelayError]) -> set[type[RelayError]]:
    ours = {kind for kind in top.__subclasses__() if kind.__module__ == errors.__name__}
    return {top}.union(*map(tree, ours))


def test_every_error_says_who_is_to_blame() -> None:
    assert {kind: kind.blame for kind in tree(RelayError)} == BLAME, "decide it in errors.py, and write it down here"
