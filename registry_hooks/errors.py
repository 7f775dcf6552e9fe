"""The one error tree.

RelayError
├── UserError                    the user can mend it: exit code 2
│   ├── SettingsError            configuration
│   │   └── DeclinedError        a setting of this box asks for more than the version has
│   ├── NotACheckpointError      a folder that cannot be published or served
│   │   └── UnreadableFileError  a file of it that this machine cannot read now
│   ├── UnknownModelError        the registry has no such registered model, version, run or alias
│   ├── DeletedExperimentError   an experiment that somebody deleted, and MLflow can restore
│   ├── AccessDeniedError        registry or store refused our credentials
│   ├── TestSetError             a test set that cannot be used
│   └── PortInUseError           somebody else listens there
├── RegistryError                MLflow answered with an error
│   └── RegistryUnavailableError MLflow did not answer; transient
├── StoreError                   S3 answered with an error
│   ├── ObjectMissingError       no such object
│   │   └── FileMissingError     a version is there without a file that it must have; it may be put back
│   ├── ObjectChangedError       an object was written anew while it was read
│   ├── TruncatedObjectError     an object ends before it should
│   ├── ObjectTooLargeError      an object is larger than it may be
│   ├── UnsupportedSourceError   files that lie where Relay cannot read
│   ├── CacheError               the cache on local disk is full, broken or was tampered with
│   └── StoreUnavailableError    S3 did not answer; transient
├── FetchCancelledError          the caller no longer wants what is being fetched
├── VerificationError            bytes or answers are not what was published
│   ├── ManifestError            a manifest that is malformed or has another digest
│   ├── CorruptFileError         a file's bytes differ from its manifest
│   └── GoldenMismatchError      the engine's answers differ from the recorded ones
├── EvaluationError              a version could not be scored; says at which stage, and never means "worse"
├── StackError                   a program of the local stack ended, or did not become ready
└── EngineError                  an engine child
    ├── EngineStartError         it did not become ready; says at which stage and why
    ├── EngineRefusedError       it answered a question with 4xx; says which status and code
    ├── StartCancelledError      the caller no longer wants the engine that is being started
    └── EngineGoneError          it ended while it was needed; transient

A message says what happened, what the program did about it, and what to do next. `transient` decides retries, `blame`
says who is at fault when a version does not come into service; every class that is raised on that way names its own.
HTTP codes live at the API door, exit codes at the command line.
"""

from __future__ import annotations

from registry_hooks.blame import Blame as Blame


class RelayError(Exception):
    """Anything that Relay reports by name.

    Attributes:
        transient: Whether the same call may succeed when it is simply made again.
        blame: Who is at fault.
        may_heal: Whether what is wrong may be put right behind our back, so that `blame` holds only for what is still
            so some minutes later.
    """

    transient = False
    blame = Blame.MOMENT
    may_heal = False


def blame_of(error: BaseException) -> Blame:
    """Who is at fault; for what is no error of Relay's (no memory, no descriptors, a defect), this box."""
    return error.blame if isinstance(error, RelayError) else Blame.BOX


class UserError(RelayError):
    """The user can mend it."""

    blame = Blame.BOX


class SettingsError(UserError):
    """A setting is unknown, missing or contradicts another."""


class DeclinedError(SettingsError):
    """A setting of this box asks for more than the version has, or allows less than it needs."""

    blame = Blame.POLICY


class NotACheckpointError(UserError):
    """A folder is not a checkpoint that can be published or served."""

    blame = Blame.VERSION


class UnreadableFileError(NotACheckpointError):
    """A file of a checkpoint cannot be read by this process now, which says nothing of its bytes."""

    blame = Blame.BOX


class UnknownModelError(UserError):
    """The registry has no such registered model, version, run or alias.

    Attributes:
        what: What is unknown: `model`, `version`, `run`, `logged model` or `experiment`.
    """

    blame = Blame.REGISTRY

    def __init__(self, message: str, *, what: str = "model") -> None:
        super().__init__(message)
        self.what = what


class DeletedExperimentError(UserError):
    """Somebody deleted an experiment that Relay reads or writes. MLflow keeps it until `mlflow gc`.

    Attributes:
        experiment: Its name.
    """

    blame = Blame.REGISTRY

    def __init__(self, message: str, *, experiment: str) -> None:
        super().__init__(message)
        self.experiment = experiment


class AccessDeniedError(UserError):
    """Registry or store refused the credentials in use."""


class TestSetError(UserError):
    """A test set cannot be read, or a line of it is wrong."""

    __test__ = False  # to pytest, a class of this name is a test


class PortInUseError(UserError):
    """Another process listens on the port that was asked for."""


class RegistryError(RelayError):
    """MLflow answered, with an error."""

    blame = Blame.REGISTRY


class RegistryUnavailableError(RegistryError):
    """MLflow did not answer in time or at all."""

    transient = True


class StoreError(RelayError):
    """The object store answered, with an error."""

    blame = Blame.STORE


class ObjectMissingError(StoreError):
    """The object store has no such object; perhaps another store has it."""


class FileMissingError(ObjectMissingError):
    """A version is in the store, and a file that it must have is not."""

    blame = Blame.VERSION
    may_heal = True


class ObjectChangedError(StoreError):
    """An object was written anew while it was read."""

    blame = Blame.MOMENT


class TruncatedObjectError(StoreError):
    """An object ends before it should."""

    blame = Blame.VERSION


class ObjectTooLargeError(StoreError):
    """An object is larger than one of its kind may be."""

    blame = Blame.VERSION


class UnsupportedSourceError(StoreError):
    """The registry says that the files lie where Relay cannot read."""

    blame = Blame.VERSION


class CacheError(StoreError):
    """The cache on local disk is full, broken, or was changed by somebody else."""

    blame = Blame.BOX


class StoreUnavailableError(StoreError):
    """The object store did not answer in time or at all."""

    transient = True


class FetchCancelledError(RelayError):
    """The caller no longer wants what is being fetched."""


class VerificationError(RelayError):
    """What arrived, or what it answers, is not what was published."""

    blame = Blame.VERSION


class ManifestError(VerificationError):
    """The manifest is malformed, unsafe, or has another digest than the registry says."""


class CorruptFileError(VerificationError):
    """A file's bytes differ from what its manifest says."""


class GoldenMismatchError(VerificationError):
    """An engine's answers differ from those recorded at publishing by more than the tolerance."""


class EvaluationError(RelayError):
    """A version could not be scored, which says nothing of how good it is.

    Attributes:
        stage: Where it stopped: `room`, `start`, `prompts`, `asking`, `answers` or `deadline`.
    """

    def __init__(self, message: str, *, stage: str, transient: bool = False, blame: Blame = Blame.MOMENT) -> None:
        super().__init__(message)
        self.stage = stage
        self.transient = transient
        self.blame = blame


class StackError(RelayError):
    """A program of the local stack ended, or did not become ready."""

    blame = Blame.BOX


class EngineError(RelayError):
    """Something about an engine child."""

    blame = Blame.BOX


class EngineStartError(EngineError):
    """An engine did not become ready.

    Attributes:
        stage: Where it stopped: `room`, `import`, `load`, `listen` or `timeout`.
    """

    def __init__(self, message: str, *, stage: str, blame: Blame = Blame.BOX) -> None:
        super().__init__(message)
        self.stage = stage
        self.blame = blame
        self.transient = blame.may_pass


class EngineRefusedError(EngineError):
    """An engine answered that a question of ours is wrong, which it was not for the engine that answered it before.

    Attributes:
        status: 4xx.
        code: A word that programs can rely on; empty where it gave none.
    """

    def __init__(self, message: str, *, status: int, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class StartCancelledError(EngineError):
    """The caller no longer wants the engine that is being started; nothing of it is left."""

    blame = Blame.MOMENT


class EngineGoneError(EngineError):
    """An engine ended while it was needed."""

    transient = True
