"""What botocore's errors mean to Relay: one table for its exception classes, one for the codes that a server answers.

A test walks through every exception class of botocore and fails for one that this table does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from botocore import exceptions as boto
from urllib3.exceptions import HTTPError

from registry_hooks import trust
from registry_hooks.errors import (
    AccessDeniedError,
    ObjectChangedError,
    ObjectMissingError,
    RelayError,
    SettingsError,
    StoreError,
    StoreUnavailableError,
    TruncatedObjectError,
)

_UNAVAILABLE: tuple[type[Exception], ...] = (
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    boto.CapacityNotAvailableError,
    HTTPError,
)
_DENIED: tuple[type[Exception], ...] = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.MetadataRetrievalError,
    boto.NoAuthTokenError,
    boto.TokenRetrievalError,
    boto.UnknownTokenProviderError,
    boto.UnknownCredentialError,
    boto.RefreshWithMFAUnsupportedError,
    boto.SSOError,
    boto.LoginError,
)
_SETTINGS: tuple[type[Exception], ...] = (
    boto.ProfileNotFound,
    boto.ConfigParseError,
    boto.ConfigNotFound,
    boto.InvalidConfigError,
    boto.BaseEndpointResolverError,
    boto.EndpointProviderError,
    boto.InvalidEndpointConfigurationError,
    boto.InvalidProxiesConfigError,
    boto.InvalidDefaultsMode,
    boto.InvalidRegionError,
    boto.UnknownRegionError,
    boto.ServiceNotInRegionError,
    boto.InvalidRetryConfigurationError,
    boto.InvalidMaxRetryAttemptsError,
    boto.InvalidRetryModeError,
    boto.InvalidChecksumConfigError,
    boto.InvalidS3AddressingStyleError,
    boto.InvalidS3UsEast1RegionalEndpointConfigError,
    boto.InvalidSTSRegionalEndpointsConfigError,
    boto.InvalidEndpointDiscoveryConfigurationError,
    boto.InvalidIMDSEndpointError,
    boto.InvalidIMDSEndpointModeError,
    boto.UnknownSignatureVersionError,
    boto.UnsupportedSignatureVersionError,
    boto.UnsupportedS3ConfigurationError,
    boto.UnsupportedS3ControlConfigurationError,
    boto.UnsupportedS3AccesspointConfigurationError,
    boto.MissingDependencyException,
)
# A call that is wrong in itself, or an answer that makes no sense: neither waiting nor other settings help.
_REFUSED: tuple[type[Exception], ...] = (
    boto.DataNotFoundError,
    boto.ApiVersionNotFoundError,
    boto.MissingParametersError,
    boto.ValidationError,
    boto.ParamValidationError,
    boto.UnknownServiceStyle,
    boto.PaginationError,
    boto.OperationNotPageableError,
    boto.ChecksumError,
    boto.UnseekableStreamError,
    boto.WaiterError,
    boto.WaiterConfigError,
    boto.InvalidExpressionError,
    boto.UnknownClientMethodError,
    boto.InvalidDNSNameError,
    boto.UnsupportedS3ArnError,
    boto.UnsupportedS3ControlArnError,
    boto.InvalidHostLabelError,
    boto.UnsupportedOutpostResourceError,
    boto.StubResponseError,
    boto.MD5UnavailableError,
    boto.AwsChunkedWrapperError,
    boto.FlexibleChecksumError,
    boto.UnsupportedServiceProtocolsError,
    boto.UndefinedModelAttributeError,
)
_KINDS: tuple[tuple[tuple[type[Exception], ...], type[RelayError]], ...] = (
    (_UNAVAILABLE, StoreUnavailableError),
    (_DENIED, AccessDeniedError),
    (_SETTINGS, SettingsError),
    (_REFUSED, StoreError),
)

_CODES: dict[str, type[RelayError]] = {
    "NoSuchKey": ObjectMissingError,
    "404": ObjectMissingError,
    **dict.fromkeys(("412", "PreconditionFailed"), ObjectChangedError),
    **dict.fromkeys(("416", "InvalidRange"), TruncatedObjectError),
    **dict.fromkeys(
        (
            "401",
            "403",
            "AccessDenied",
            "AccountProblem",
            "AllAccessDisabled",
            "AuthorizationHeaderMalformed",
            "ExpiredToken",
            "InvalidAccessKeyId",
            "InvalidToken",
            "RequestTimeTooSkewed",
            "SignatureDoesNotMatch",
            "TokenRefreshRequired",
        ),
        AccessDeniedError,
    ),
    **dict.fromkeys(
        (
            "408",
            "429",
            "InternalError",
            "OperationAborted",
            "RequestTimeout",
            "ServerBusy",
            "ServiceUnavailable",
            "SlowDown",
            "Throttling",
            "TooManyRequests",
        ),
        StoreUnavailableError,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What was asked of the store, for messages.

    Attributes:
        what: In the past tense of a failure: `reading`, `listing`, `uploading to`.
        endpoint: URL of the store; None for AWS itself.
    """

    what: str
    uri: str
    endpoint: str | None

    @property
    def where(self) -> str:
        return self.endpoint or "AWS S3"


@contextmanager
def translated(call: Call) -> Iterator[None]:
    """Let only errors of `registry_hooks.errors` out."""
    try:
        yield
    except boto.ClientError as error:
        raise _of_answer(error, call) from error
    except (boto.BotoCoreError, boto.UndefinedModelAttributeError, HTTPError) as error:
        raise _of_exception(error, call) from error


def kind_of(error_class: type[Exception]) -> type[RelayError] | None:
    """What an exception class of botocore means; None when the table does not know it."""
    for classes, kind in _KINDS:
        if issubclass(error_class, classes):
            return kind
    return None


def _of_exception(error: Exception, call: Call) -> RelayError:
    kind = kind_of(type(error)) or StoreError
    if kind is AccessDeniedError:
        return _denied(call, "there are no usable credentials")
    if kind is StoreUnavailableError:
        return _unavailable(call, str(error))
    if kind is SettingsError:
        return SettingsError(f"{call.what} {call.uri} was not tried: {error}; check `store.endpoint_url` and `AWS_*`")
    return StoreError(f"{call.what} {call.uri} failed: {error}")


def _of_answer(error: boto.ClientError, call: Call) -> RelayError:
    answer = error.response.get("Error", {})
    code, said = str(answer.get("Code", "")), str(answer.get("Message", "")).rstrip(".")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    kind = _CODES.get(code) or _CODES.get(str(status)) if code != "NoSuchBucket" else StoreError
    if kind is ObjectMissingError:
        return ObjectMissingError(
            f"{call.uri} is not in the store at {call.where}: publish it again, or mend the version"
        )
    if kind is ObjectChangedError:
        return ObjectChangedError(f"{call.uri} was written anew while it was read")
    if kind is TruncatedObjectError:
        return TruncatedObjectError(f"{call.uri} ends early: it is truncated in the store at {call.where}")
    if kind is AccessDeniedError:
        return _denied(call, f"{call.where} answered {code}")
    if kind is StoreUnavailableError or status >= 500:
        return _unavailable(call, f"it answered {code}: {said}")
    if code == "NoSuchBucket":
        bucket = call.uri.removeprefix("s3://").partition("/")[0]
        return StoreError(f"there is no bucket {bucket!r} at {call.where}: create it, or correct `store.endpoint_url`")
    return StoreError(f"{call.what} {call.uri} failed: {call.where} answered {code}: {said}")


def _denied(call: Call, why: str) -> AccessDeniedError:
    return AccessDeniedError(
        f"{call.what} {call.uri} was refused: {why}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) "
        f"to a key that {call.where} accepts"
    )


def _unavailable(call: Call, why: str) -> StoreUnavailableError:
    hint = "check that the store runs and that `store.endpoint_url` or MLFLOW_S3_ENDPOINT_URL names it"
    if trust.is_distrust(why):
        hint = "name the certificate of its authority in AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE"
    return StoreUnavailableError(f"{call.what} {call.uri} failed, {call.where} does not answer ({why}); {hint}")
