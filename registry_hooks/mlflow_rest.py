"""MLflow's REST API over plain HTTP: one bounded request each, and every failure translated.

The MLflow client is not used: importing it costs seconds and over a hundred megabytes on a box with the full package,
and with a server that is down it retries for minutes. What people set for it keeps working: `MLFLOW_TRACKING_USERNAME`,
`MLFLOW_TRACKING_PASSWORD`, `MLFLOW_TRACKING_TOKEN`, `MLFLOW_TRACKING_INSECURE_TLS`, `MLFLOW_TRACKING_SERVER_CERT_PATH`,
`MLFLOW_TRACKING_CLIENT_CERT_PATH`, the variables of `trust`, and `~/.mlflow/credentials`.
"""

from __future__ import annotations

import configparser
import email.utils
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from registry_hooks import bounded_http, trust
from registry_hooks.errors import (
    AccessDeniedError,
    RegistryError,
    RegistryUnavailableError,
    SettingsError,
    UnknownModelError,
)
from registry_hooks.storable import storable

API = "/api/2.0/mlflow"
ALREADY_EXISTS = "RESOURCE_ALREADY_EXISTS"
DOES_NOT_EXIST = "RESOURCE_DOES_NOT_EXIST"
INVALID_VALUE = "INVALID_PARAMETER_VALUE"

# uvicorn closes idle connections after 5 s: let go of them first, so that no request meets a closing one.
_KEEPALIVE_S = 3.0
_ANSWER_SHOWN_CHARS = 300
# A whole answer may take as long as so many silences: more is a proxy that drips.
_TOTAL_SILENCES = 5
_MAX_VERSION_CHARS = 50
_SERVER_AUTHORITY, _CLIENT_CERTIFICATE = "MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_CLIENT_CERT_PATH"

Absent = Callable[[str, str], bool]
"""Says of MLflow's error code and message whether they only mean that there is no such thing."""


class Answer(dict[str, Any]):
    """A JSON object of MLflow's; a field that it always sends and that is missing means that this is not MLflow."""

    def __missing__(self, key: str) -> Any:
        raise RegistryError(f"an answer without {key!r}: this is not MLflow, or one that this Relay does not know")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What an MLflow server says of itself.

    Attributes:
        clock: Its time, to the second; None when it does not say.
    """

    version: str
    clock: datetime | None


class MlflowRest:
    """One MLflow server; may be called from any thread.

    Args:
        tracking_uri: `http(s)://host[:port][/prefix]`.
        timeout_s: Bound on connecting, and on each silence, of a GET; its body may take five times as long.
        write_timeout_s: The same of everything else.

    Raises:
        SettingsError: A URI that is not HTTP, or a way of authentication that Relay does not speak.
    """

    def __init__(
        self, tracking_uri: str, *, timeout_s: float, write_timeout_s: float, environ: Mapping[str, str]
    ) -> None:
        self.tracking_uri = _checked_uri(tracking_uri)
        self._silences_s = {True: timeout_s, False: write_timeout_s}
        for variable in ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4"):
            if environ.get(variable, "").lower() not in ("", "0", "false"):
                raise SettingsError(
                    f"{variable} is set, and Relay does not speak it, so nothing was asked of MLflow: use "
                    "MLFLOW_TRACKING_TOKEN or MLFLOW_TRACKING_USERNAME and _PASSWORD"
                )
        self._client = httpx.Client(
            base_url=self.tracking_uri,
            headers={"user-agent": "relay"} | _bearer(environ),
            auth=_basic_auth(environ),
            verify=_tls(environ),
            limits=httpx.Limits(max_connections=16, keepalive_expiry=_KEEPALIVE_S),
        )

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def server_facts(self) -> ServerFacts:
        """Version and clock of the server, which tells them also to those whom it lets do nothing else.

        Raises:
            RegistryUnavailableError: No answer in time, 5xx or 429.
            RegistryError: This is not MLflow.
        """
        response = self._request("GET", "/version")
        if response.status_code != httpx.codes.OK or len(response.text) > _MAX_VERSION_CHARS:
            raise self._refusal(response, "", response.text[:_ANSWER_SHOWN_CHARS].strip())
        return ServerFacts(version=response.text.strip(), clock=_clock(response))

    def get(self, path: str, **params: str) -> Answer:
        """The answer to a GET; the errors of `call`."""
        return self.call("GET", path, params=params) or Answer()

    def post(self, path: str, **body: object) -> Answer:
        """The answer to a POST; the errors of `call`."""
        return self.call("POST", path, body=body) or Answer()

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
        absent: Absent = lambda code, message: False,
    ) -> Answer | None:
        """Ask once.

        Args:
            path: Below `/api/2.0/mlflow`, with a slash at the start.
            absent: Errors for which the answer is None.

        Raises:
            RegistryUnavailableError: No answer in time, 5xx or 429.
            AccessDeniedError: 401 or 403.
            UnknownModelError: MLflow has no such thing, and `absent` does not accept that.
            RegistryError: Any other answer but 200 with JSON.
        """
        response = self._request(method, API + path, params=params, body=body)
        if response.status_code == httpx.codes.OK:
            return self._document(response)
        code, message = _error_of(response)
        if absent(code, message):
            return None
        raise self._refusal(response, code, message)

    def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> httpx.Response:
        try:
            silence_s = self._silences_s[method == "GET"]
            return bounded_http.request(
                self._client,
                method,
                path,
                params=params,
                body=storable(body),
                silence_s=silence_s,
                total_s=_TOTAL_SILENCES * silence_s,
            )
        except httpx.HTTPError as error:
            hint = "check that it runs and can be reached from here"
            if trust.is_distrust(error):
                hint = f"name the certificate of its authority in {_SERVER_AUTHORITY} or REQUESTS_CA_BUNDLE"
            raise RegistryUnavailableError(
                f"MLflow at {self.tracking_uri} did not answer ({type(error).__name__}: {error}): {hint}"
            ) from error

    def _document(self, response: httpx.Response) -> Answer:
        try:
            document = response.json() if response.content.strip() else {}
        except ValueError as error:
            raise self._not_mlflow(response) from error
        if not isinstance(document, dict):
            raise self._not_mlflow(response)
        return Answer(document)

    def _refusal(
        self, response: httpx.Response, code: str, message: str
    ) -> RegistryError | UnknownModelError | AccessDeniedError:
        status = response.status_code
        if status in (401, 403):
            return AccessDeniedError(
                f"MLflow at {self.tracking_uri} refused access (HTTP {status}: {message}): check "
                "MLFLOW_TRACKING_USERNAME and _PASSWORD or _TOKEN, and the server's --allowed-hosts"
            )
        if status == httpx.codes.TOO_MANY_REQUESTS or status >= 500:
            return RegistryUnavailableError(
                f"MLflow at {self.tracking_uri} cannot answer now (HTTP {status}: {message})"
            )
        if code == DOES_NOT_EXIST:
            what = _kind_of(response.request.url.path, message)
            return UnknownModelError(f"MLflow at {self.tracking_uri}: {message}", what=what)
        if not code:
            return self._not_mlflow(response)
        return RegistryError(f"MLflow at {self.tracking_uri} refused {response.request.url.path}: {code}: {message}")

    def _not_mlflow(self, response: httpx.Response) -> RegistryError:
        return RegistryError(
            f"{self.tracking_uri} does not answer like MLflow (HTTP {response.status_code} for "
            f"{response.request.url.path}): check registry.tracking_uri or MLFLOW_TRACKING_URI"
        )


def _checked_uri(tracking_uri: str) -> str:
    try:
        url = httpx.URL(tracking_uri)
    except httpx.InvalidURL as error:
        raise SettingsError(f"registry.tracking_uri is no URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise SettingsError(
            f"registry.tracking_uri {tracking_uri!r} is not http:// or https://: Relay needs an MLflow server, "
            "which `relay up` starts"
        )
    if url.userinfo:
        raise SettingsError(
            "registry.tracking_uri holds a password, which would end up in logs: use MLFLOW_TRACKING_USERNAME "
            "and _PASSWORD"
        )
    return tracking_uri.rstrip("/")


def _bearer(environ: Mapping[str, str]) -> dict[str, str]:
    token = environ.get("MLFLOW_TRACKING_TOKEN")
    return {"authorization": f"Bearer {token}"} if token and _basic_auth(environ) is None else {}


def _basic_auth(environ: Mapping[str, str]) -> tuple[str, str] | None:
    file = configparser.ConfigParser(interpolation=None)
    try:
        file.read(Path("~/.mlflow/credentials").expanduser(), encoding="utf-8")
    except (OSError, RuntimeError, configparser.Error, UnicodeDecodeError) as error:
        raise SettingsError(
            f"~/.mlflow/credentials cannot be read ({type(error).__name__}): mend or remove it"
        ) from error
    user, password = (
        environ.get(name) or file.get("mlflow", name.lower(), fallback=None)
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    )
    return (user, password) if user and password else None


def _tls(environ: Mapping[str, str]) -> ssl.SSLContext | bool:
    if environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("1", "true"):
        return False
    context = trust.context(environ, _SERVER_AUTHORITY)
    certificate = environ.get(_CLIENT_CERTIFICATE)
    if not certificate:
        return context or True
    try:
        context = context or ssl.create_default_context()
        context.load_cert_chain(certificate)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"{_CLIENT_CERTIFICATE} cannot be used: {error}") from error
    return context


# What an entity of the API is to people.
_KINDS = {"registered-models": "model", "runs": "run", "logged-models": "logged model", "experiments": "experiment"}


def _kind_of(path: str, message: str) -> str:
    """What MLflow does not know: what the path asks for; of a version its model may be missing already."""
    entity = path.partition(f"{API}/")[2].partition("/")[0]
    is_version = entity == "model-versions" or path.endswith("/registered-models/alias")
    return "version" if is_version and "Registered Model" not in message else _KINDS.get(entity, "model")


def _clock(response: httpx.Response) -> datetime | None:
    try:
        return email.utils.parsedate_to_datetime(response.headers.get("date", ""))
    except ValueError:
        return None


def _error_of(response: httpx.Response) -> tuple[str, str]:
    try:
        document = response.json()
        return str(document["error_code"]), str(document.get("message", ""))[:_ANSWER_SHOWN_CHARS]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", response.text[:_ANSWER_SHOWN_CHARS].strip()
