"""Is the store there, has this box keys for it, and may it do what its role needs?"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import httpx

from pipeline.doctor.clocks import SET_CLOCK, clock_of, skew_finding
from pipeline.doctor.finding import Check, Finding, failed, ok, warning
from pipeline.doctor.registry_checks import connected
from registry_hooks import contract, s3_store
from registry_hooks.errors import (
    AccessDeniedError,
    ObjectMissingError,
    RegistryError,
    RelayError,
    StoreError,
    StoreUnavailableError,
    UnknownModelError,
)
from registry_hooks.mlflow_rest import DOES_NOT_EXIST
from registry_hooks.ports import ObjectTrial
from registry_hooks.records import ModelVersion
from registry_hooks.s3_store import S3Store
from registry_hooks.settings import Settings, StoreSettings

AWS_ENDPOINT = "https://s3.amazonaws.com"
START = "start the store (`relay up`), or set RELAY_STORE__ENDPOINT_URL or MLFLOW_S3_ENDPOINT_URL"
KEYS = "export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…, or AWS_PROFILE=…"
MAX_QUICK_MS = 1000
_PART = slice(6, 12)
_CONTENT = b"relay doctor wrote this and meant to delete it\n"
_QUICK = StoreSettings(connect_timeout_s=1.0, read_timeout_s=2.0)
_MAX_MANIFEST_BYTES = 64 * 1024 * 1024


def has_credentials(settings: Settings) -> Sequence[Finding]:
    """Whether the AWS environment or files hold a key pair; which one is never said."""
    source = s3_store.credentials_source()
    if source is None:
        return [failed("S3 credentials", "there are none, in the environment or in the AWS files", KEYS)]
    return [ok("S3 credentials", f"found ({source})")]


def clock(settings: Settings) -> Sequence[Finding]:
    """Whether the store's clock agrees with ours."""
    asked = datetime.now(UTC)
    try:
        answer = httpx.head(settings.s3_endpoint_url or AWS_ENDPOINT, timeout=2.0)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return [failed("S3 clock", f"the store does not answer ({type(error).__name__}: {error})", START)]
    theirs = clock_of(answer.headers.get("date"))
    return [skew_finding("S3 clock", theirs=theirs, asked=asked, answered=datetime.now(UTC))]


def writes(settings: Settings) -> Sequence[Finding]:
    """Whether a small object below the artifact root can be written, read whole and in part, and deleted."""
    try:
        root, guessed = artifact_root(settings), ""
    except RelayError:
        # Where `relay up` would keep them: the store is worth a try while MLflow is away.
        root, guessed = f"s3://{settings.stack.bucket}/mlflow", " (a guess: MLflow did not say where it keeps files)"
    if not root.startswith("s3://"):
        return [not_in_s3("S3 write", root)]
    findings = trial(S3Store(_QUICK, settings.s3_endpoint_url), root)
    return [replace(finding, what=finding.what + guessed) for finding in findings]


def reads(settings: Settings) -> Sequence[Finding]:
    """Whether the files of the version that the alias names can be read: all that an inference box may need."""
    try:
        version = _aliased(settings)
        root = version.artifact_uri if version else artifact_root(settings)
    except RelayError as error:
        what = f"not tried, since only MLflow knows where the files are, and it did not say: {error}"
        return [failed("S3 read", what, "mend the way to MLflow first")]
    if not root.startswith("s3://"):
        return [not_in_s3("S3 read", root)]
    store, uri = S3Store(_QUICK, settings.s3_endpoint_url), f"{root}/{contract.MANIFEST_FILE}"
    try:
        size_bytes = len(store.read(uri, _MAX_MANIFEST_BYTES))
        buffer = bytearray(min(size_bytes, 1))
        store.read_into(uri, size_bytes - len(buffer), memoryview(buffer))
    except ObjectMissingError:
        return [ok("S3 read", f"{root} answers; there is no manifest to read there yet")]
    except RelayError as error:
        return [failed("S3 read", str(error), mend_for(error))]
    return [ok("S3 read", f"the manifest of {version.label if version else root} was read, whole and in part")]


def trial(store: ObjectTrial, root: str) -> list[Finding]:
    """Write, read, read a part of, and delete an object below `root`; a step that fails ends the trial."""
    uri = f"{root.rstrip('/')}/relay-doctor/{uuid.uuid4().hex}"

    def read_part() -> None:
        part = bytearray(_PART.stop - _PART.start)
        store.read_into(uri, _PART.start, memoryview(part))
        _check_same(part, _CONTENT[_PART], root)

    findings = [_tried("S3 write", lambda: store.write(uri, _CONTENT), root)]
    if findings[0].verdict == "failed":
        return findings
    return [
        *findings,
        _tried("S3 read", lambda: _check_same(store.read(uri, len(_CONTENT)), _CONTENT, root), root),
        _tried("S3 ranged read", read_part, root),
        _tried("S3 delete", lambda: store.delete(uri), root),
    ]


def mend_for(error: RelayError) -> str:
    """What to do about an error of the store."""
    text = str(error)
    if "RequestTimeTooSkewed" in text:
        return SET_CLOCK
    if isinstance(error, AccessDeniedError):
        return KEYS
    if isinstance(error, StoreUnavailableError):
        return START
    if "there is no bucket" in text:
        return "create it: aws s3 mb s3://BUCKET --endpoint-url ENDPOINT"
    return "see the message, and the store's log"


def artifact_root(settings: Settings) -> str:
    """Where MLflow keeps the files of new versions.

    The experiment of our runs may not be there before the first publish; MLflow's own default one nearly always is.

    Raises:
        RelayError: MLflow does not answer, or has neither experiment.
    """
    with connected(settings) as registry:
        for experiment in (settings.registry.experiment, "Default"):
            answer = registry.rest.call(
                "GET",
                "/experiments/get-by-name",
                params={"experiment_name": experiment},
                absent=lambda code, message: code == DOES_NOT_EXIST,
            )
            if answer:
                return str(answer["experiment"]["artifact_location"]).rstrip("/")
    raise RegistryError(f"MLflow has no experiment {settings.registry.experiment!r} yet: publish a checkpoint")


def _aliased(settings: Settings) -> ModelVersion | None:
    with connected(settings) as registry:
        try:
            return registry.resolve_alias(settings.registry.name, settings.registry.alias)
        except UnknownModelError:
            return None


def not_in_s3(name: str, root: str) -> Finding:
    """MLflow hands out artifacts itself: Relay moves weights straight to and from S3."""
    what = f"MLflow keeps files at {root}, not in S3, where Relay could reach them without MLflow"
    mend = "start it with: mlflow server --no-serve-artifacts --default-artifact-root s3://BUCKET/mlflow …"
    return failed(name, what, mend)


def _tried(name: str, step: Callable[[], None], root: str) -> Finding:
    began = time.monotonic()
    try:
        step()
    except AccessDeniedError as error:
        mend = mend_for(error)
        return failed(name, str(error), mend if mend != KEYS else f"{KEYS}: a key that may do this below {root}")
    except RelayError as error:
        return failed(name, str(error), mend_for(error))
    took_ms = (time.monotonic() - began) * 1000
    if took_ms > MAX_QUICK_MS:
        return warning(name, f"{root}: {took_ms:.0f} ms for a few bytes", "use a nearer store, or a better link")
    return ok(name, f"{root}: {took_ms:.0f} ms")


def _check_same(came: bytes | bytearray, written: bytes, root: str) -> None:
    if came != written:
        raise StoreError(f"other bytes came back from {root} than were written: use another S3 server")


CHECKS = (
    Check(name="S3 credentials", ask=has_credentials, mend_silence=KEYS),
    Check(name="S3 clock", ask=clock, mend_silence=START),
    Check(name="S3 write", ask=writes, mend_silence=START, roles=("both", "training")),
    Check(name="S3 read", ask=reads, mend_silence=START, roles=("inference",)),
)
