"""A certificate authority of one's own, named as people name it for other programs."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.prediction_client import PredictionClient
from pipeline.server_view import server_views
from registry_hooks import contract, trust
from registry_hooks.errors import RegistryUnavailableError, SettingsError, StoreUnavailableError
from registry_hooks.mlflow_rest import MlflowRest
from registry_hooks.s3_store import Credentials, S3Store
from registry_hooks.settings import StoreSettings

NOW = datetime.now(UTC)
VARIABLES = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
EMPTY = b'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"></ListBucketResult>'


class Handler(BaseHTTPRequestHandler):
    """MLflow, S3 and Relay's server at once."""

    def do_GET(self) -> None:
        body = {"/version": b"3.17.2", "/models/info": b'{"version": 7}'}.get(self.path, EMPTY)
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: nobody reads it."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of 127.0.0.1, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "relay test")])
    built = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key(), serial_number=7)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM) + private)
    return path


@pytest.fixture(scope="module")
def url(certificate: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*VARIABLES, "AWS_CA_BUNDLE", "SSL_CERT_DIR"):
        monkeypatch.delenv(variable, raising=False)


def version_at(url: str, **environ: str) -> str:
    rest = MlflowRest(url, timeout_s=10, write_timeout_s=10, environ=environ)
    try:
        return rest.server_facts().version
    finally:
        rest.close()


def list_store(url: str) -> int:
    settings = StoreSettings(connect_timeout_s=5, read_timeout_s=5)
    store = S3Store(settings, url, credentials=Credentials(access_key_id="a", secret_access_key="b"))
    try:
        return len(store.list_objects("s3://bucket"))
    finally:
        store.close()


@pytest.mark.parametrize("variable", VARIABLES)
def test_mlflow_is_asked_over_tls(url: str, certificate: Path, variable: str) -> None:
    assert version_at(url, **{variable: str(certificate)}) == "3.17.2"


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", *VARIABLES[1:]])
def test_the_store_is_asked_over_tls(
    url: str, certificate: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(certificate))

    assert list_store(url) == 0


@pytest.mark.parametrize("variable", VARIABLES[1:])
def test_servers_are_asked_over_tls(
    url: str, certificate: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeat = json.dumps({"url": url, "seen": NOW.isoformat()})
    tags = {f"{contract.TAG_SERVER_PREFIX}box": heartbeat}
    [without] = server_views(tags, aliased=7, now=NOW)
    monkeypatch.setenv(variable, str(certificate))
    [view] = server_views(tags, aliased=7, now=NOW)
    with PredictionClient(url, max_retries=0) as client:
        answer = client._client.get("/version")

    assert not without.is_live
    assert (view.is_live, view.version) == (True, 7)
    assert answer.text == "3.17.2"


def test_an_authority_that_nobody_named_is_said_with_what_names_it(url: str) -> None:
    with pytest.raises(RegistryUnavailableError, match="MLFLOW_TRACKING_SERVER_CERT_PATH or REQUESTS_CA_BUNDLE"):
        version_at(url)
    with pytest.raises(StoreUnavailableError, match="AWS_CA_BUNDLE or REQUESTS_CA_BUNDLE"):
        list_store(url)


@pytest.mark.parametrize("variable", VARIABLES)
def test_an_authority_that_is_not_there_is_the_users_mistake(url: str, variable: str) -> None:
    with pytest.raises(SettingsError, match=f"{variable} names /nowhere.pem"):
        version_at(url, **{variable: "/nowhere.pem"})


def test_what_is_no_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("hello")

    with pytest.raises(SettingsError, match=r"SSL_CERT_FILE=.* cannot be used"):
        trust.context({"SSL_CERT_FILE": str(tmp_path / "ca.pem")})


def test_a_folder_of_certificates_is_taken(tmp_path: Path) -> None:
    assert trust.context({"SSL_CERT_DIR": str(tmp_path)}) is not None
    assert trust.context({}) is None
