"""Answers of a server that is no MLflow, or not well, and settings that cannot work."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Event, Thread
from typing import Any

import pytest

from registry_hooks import bounded_http
from registry_hooks.errors import (
    AccessDeniedError,
    RegistryError,
    RegistryUnavailableError,
    RelayError,
    SettingsError,
    UnknownModelError,
)
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.storable import storable


class Stub(BaseHTTPRequestHandler):
    """Answers everything with the status and body that its server was given."""

    server: Any

    def do_GET(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers.get("content-length") or 0)))
        self.server.seen.append({key.lower(): value for key, value in self.headers.items()})
        status, body = self.server.by_path.get(self.path.partition("?")[0], self.server.answer)
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def stub() -> Iterator[Any]:
    server: Any = HTTPServer(("127.0.0.1", 0), Stub)
    server.seen, server.bodies, server.by_path, server.headers = [], [], {}, {}
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def mlflow_error(code: str, message: str = "so it is") -> bytes:
    return json.dumps({"error_code": code, "message": message}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"<html>" + b"x" * 100, RegistryError),
        (401, b"", AccessDeniedError),
        (404, b"", RegistryError),
        (503, b"", RegistryUnavailableError),
    ],
)
def test_a_server_that_does_not_tell_its_version_is_no_mlflow(
    stub: Any, status: int, body: bytes, kind: type[RelayError]
) -> None:
    registry = MlflowRegistry(f"http://127.0.0.1:{stub.server_address[1]}")
    stub.answer = (status, body)

    with pytest.raises(kind):
        registry.rest.server_facts()
    registry.close()


@pytest.mark.parametrize(
    ("encoding", "packed", "says"),
    [
        ("gzip", gzip.compress(b" " * 3_000_000), "more than 1000000 bytes"),
        ("identity", b" " * 3_000_000, "more than 1000000 bytes"),
        ("gzip, gzip", gzip.compress(gzip.compress(b" " * 3_000_000)), "encoded as 'gzip, gzip'"),
        ("gzip", b"{}", "no gzip"),
    ],
    ids=["packed", "plain", "packed twice", "no gzip"],
)
def test_an_answer_without_end_takes_no_memory(
    stub: Any, encoding: str, packed: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_http, "MAX_ANSWER_BYTES", 1_000_000)
    stub.answer, stub.headers = (200, packed), {"content-encoding": encoding}
    registry = MlflowRegistry(f"http://127.0.0.1:{stub.server_port}", timeout_s=5)
    with pytest.raises(RegistryUnavailableError, match=says):
        registry.resolve_alias("model", "Production")
    registry.close()


def test_a_proxy_may_pack_answers(stub: Any) -> None:
    packed = gzip.compress(json.dumps({"registered_model": {"aliases": [{"alias": "A", "version": "3"}]}}).encode())
    stub.answer, stub.headers = (200, packed), {"content-encoding": "gzip"}
    registry = MlflowRegistry(f"http://127.0.0.1:{stub.server_port}", timeout_s=5)

    assert registry.aliases("model") == {"A": 3}
    registry.close()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, b"You are not authenticated", AccessDeniedError),
        (403, mlflow_error("PERMISSION_DENIED"), AccessDeniedError),
        (403, b"Invalid Host header - possible DNS rebinding attack detected", AccessDeniedError),
        (404, mlflow_error("RESOURCE_DOES_NOT_EXIST"), UnknownModelError),
        (404, b"<html>not found</html>", RegistryError),
        (301, b"", RegistryError),
        (400, mlflow_error("INVALID_PARAMETER_VALUE", "Invalid alias name"), RegistryError),
        (400, mlflow_error("BAD_REQUEST"), RegistryError),
        (409, b"[]", RegistryError),
        (429, b"slow down", RegistryUnavailableError),
        (500, mlflow_error("INTERNAL_ERROR"), RegistryUnavailableError),
        (502, b"bad gateway", RegistryUnavailableError),
        (503, mlflow_error("TEMPORARILY_UNAVAILABLE"), RegistryUnavailableError),
        (200, b"<html>login</html>", RegistryError),
        (200, b"[1]", RegistryError),
        (200, b'{"hello": 1}', RegistryError),
        (204, b"", RegistryError),
    ],
)
def test_every_bad_answer_has_a_name(stub: Any, status: int, body: bytes, kind: type[RelayError]) -> None:
    stub.answer = (status, body)
    registry = MlflowRegistry(f"http://127.0.0.1:{stub.server_port}", timeout_s=5)
    with pytest.raises(RelayError) as caught:
        registry.resolve_alias("model", "Production")
    registry.close()

    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("environ", "header"),
    [
        ({"MLFLOW_TRACKING_TOKEN": "secret"}, "Bearer secret"),
        ({"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": "pw"}, "Basic YW5uOnB3"),
    ],
)
def test_the_usual_credentials_are_sent_and_not_shown(stub: Any, environ: dict[str, str], header: str) -> None:
    stub.answer = (401, b"no")
    registry = MlflowRegistry(f"http://127.0.0.1:{stub.server_port}/", timeout_s=5, environ=environ)
    with pytest.raises(AccessDeniedError) as caught:
        registry.resolve_alias("model", "Production")
    registry.close()

    assert stub.seen[0]["authorization"] == header
    assert "secret" not in str(caught.value)
    assert "YW5u" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "environ"),
    [
        ("sqlite:///mlflow.db", {}),
        ("./mlruns", {}),
        ("http://ann:pw@host", {}),
        ("http://host", {"MLFLOW_TRACKING_AWS_SIGV4": "true"}),
        ("http://host", {"MLFLOW_TRACKING_SERVER_CERT_PATH": "/nowhere.pem"}),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(uri: str, environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError):
        MlflowRegistry(uri, environ=environ)


def test_a_version_whose_run_is_gone_is_shown_and_lies_nowhere(stub: Any) -> None:
    registry = MlflowRegistry(f"http://127.0.0.1:{stub.server_address[1]}")
    versions = [{"name": "m", "version": str(number), "source": f"runs:/r{number}/model"} for number in (2, 1)]
    stub.answer = (404, mlflow_error("RESOURCE_DOES_NOT_EXIST", "Run with id=r1 not found"))
    answers = {
        "registered-models/alias": {"model_version": versions[1]},
        "model-versions/get": {"model_version": versions[1]},
        "model-versions/search": {"model_versions": versions},
    }
    for path, answer in answers.items():
        stub.by_path[f"/api/2.0/mlflow/{path}"] = (200, json.dumps(answer).encode())

    listed = registry.newest_versions("m", 5)
    asked_for_the_list = len(stub.seen)
    found = (registry.get_version("m", 1), registry.resolve_alias("m", "Production"))
    registry.close()

    assert ([version.version for version in listed], asked_for_the_list) == ([2, 1], 1)
    assert [version and (version.version, version.artifact_uri) for version in found] == [(1, ""), (1, "")]


def test_a_proxy_that_drips_does_not_hold_a_reader_for_ever() -> None:
    class Dripping(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while not over.wait(0.02):
                    self.wfile.write(b" ")
                    self.wfile.flush()

        def log_message(self, *args: object) -> None:
            pass

    over = Event()
    with HTTPServer(("127.0.0.1", 0), Dripping) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        registry = MlflowRegistry(f"http://127.0.0.1:{server.server_port}", timeout_s=0.3)
        try:
            with pytest.raises(RegistryUnavailableError, match="not whole"):
                registry.resolve_alias("model", "Production")
        finally:
            over.set()
            registry.close()
            server.shutdown()
            thread.join()


def test_text_that_a_database_refuses_is_not_sent() -> None:
    said = {
        "key": "relay.because",
        "value": "log ends \x00\x1b[31mred\ud800\nnext",
        "params": [{"value": "\x00"}],
        "n": 1,
    }

    assert storable(said) == {
        "key": "relay.because",
        "value": "log ends [31mred?\nnext",
        "params": [{"value": ""}],
        "n": 1,
    }


def test_what_is_written_to_mlflow_has_no_control_characters(stub: Any) -> None:
    stub.answer = (200, b"{}")
    registry = MlflowRegistry(f"http://127.0.0.1:{stub.server_port}")
    registry.set_model_tag("m", "relay.server.x", "killed\x00here")
    registry.close()

    assert b"killedhere" in stub.bodies[-1]
