"""The one error tree.

RelayError
├── UserError                    the user can mend it: exit code 2
│   ├── SettingsError            configuration
│   ├── NotACheckpointError      a folder that cannot be published or served
│   ├── UnknownModelError        the registry has no such registered model, version or alias
│   ├── AccessDeniedError        registry or store refused our credentials
│   ├── TestSetError             a test set that cannot be used
│   └── PortInUseError           somebody else listens there
├── RegistryError                MLflow answered with an error
│   └── RegistryUnavailableError MLflow did not answer; transient
├── StoreError                   S3 answered with an error
│   ├── ObjectMissingError       no such object
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
    └── EngineGoneError          it ended while it was needed; transient

A message says what happened, what the program did about it, and what to do next. `transient` decides retries.
HTTP codes live at the API door, exit codes at the command line.
"""

from __future__ import annotations


class RelayError(Exception):
    """Anything that Relay reports by name."""

    transient = False


class UserError(RelayError):
    """The user can mend it."""


class SettingsError(UserError):
    """A setting is unknown, missing or contradicts another."""


class NotACheckpointError(UserError):
    """A folder is not a checkpoint that can be published or served."""


class UnknownModelError(UserError):
    """The registry has no such registered model, version or alias."""


class AccessDeniedError(UserError):
    """Registry or store refused the credentials in use."""


class TestSetError(UserError):
    """A test set cannot be read, or a line of it is wrong."""

    __test__ = False  # to pytest, a class of this name is a test


class PortInUseError(UserError):
    """Another process listens on the port that was asked for."""


class RegistryError(RelayError):
    """MLflow answered, with an error."""


class RegistryUnavailableError(RegistryError):
    """MLflow did not answer in time or at all."""

    transient = True


class StoreError(RelayError):
    """The object store answered, with an error."""


class ObjectMissingError(StoreError):
    """The object store has no such object."""


class StoreUnavailableError(StoreError):
    """The object store did not answer in time or at all."""

    transient = True


class FetchCancelledError(RelayError):
    """The caller no longer wants what is being fetched."""


class VerificationError(RelayError):
    """What arrived, or what it answers, is not what was published."""


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

    def __init__(self, message: str, *, stage: str, transient: bool = False) -> None:
        super().__init__(message)
        self.stage = stage
        self.transient = transient


class StackError(RelayError):
    """A program of the local stack ended, or did not become ready."""


class EngineError(RelayError):
    """Something about an engine child."""


class EngineStartError(EngineError):
    """An engine did not become ready.

    Attributes:
        stage: Where it stopped: `spawn`, `import`, `load`, `listen` or `timeout`.
    """

    def __init__(self, message: str, *, stage: str, transient: bool = False) -> None:
        super().__init__(message)
        self.stage = stage
        self.transient = transient


class EngineGoneError(EngineError):
    """An engine ended while it was needed."""

    transient = True
