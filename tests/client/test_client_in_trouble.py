"""What the client does when the server is away, busy, silent, or breaks off."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from pipeline.prediction.answers import retry_after_s
from pipeline.prediction.errors import (
    AnswerTimeoutError,
    PredictionError,
    RequestRefusedError,
    ServerBusyError,
    ServerFaultError,
    ServerUnreachableError,
    StreamBrokenError,
)
from pipeline.prediction_client import PredictionClient
from registry_hooks.errors import UserError
from tests.client.scripted_server import answering, event, hanging_up, refusing, saying, streaming

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("trouble", [refusing(503, "model_loading"), refusing(429, "queue_full"), hanging_up])
def test_what_passes_is_waited_out(server: Any, trouble: Any) -> None:
    server.steps = [trouble, trouble, saying("abc")]

    with PredictionClient(server.url) as client:
        answer = client.chat("copy abc")

    assert (answer.text, len(server.asked)) == ("abc", 3)


@pytest.mark.usefixtures("impatient")
def test_a_server_that_stays_busy_is_given_up_and_its_reason_is_told(server: Any) -> None:
    server.steps = [refusing(503, "model_loading", "no model is loaded yet", Retry_After="0")]

    with (
        PredictionClient(server.url) as client,
        pytest.raises(ServerBusyError, match="no model is loaded yet") as caught,
    ):
        client.chat("x")

    assert (caught.value.code, caught.value.retry_after_s, caught.value.transient) == ("model_loading", 0.0, True)
    assert len(server.asked) == 4


def test_retry_after_is_respected_and_bounded(server: Any) -> None:
    server.steps = [refusing(429, "queue_full", Retry_After="1"), saying("abc"), refusing(503, "x", Retry_After="3600")]

    with PredictionClient(server.url) as client:
        begun = datetime.now(UTC)
        answer = client.chat("x")
        waited_s = (datetime.now(UTC) - begun).total_seconds()
        with pytest.raises(ServerBusyError, match="in 3600 s"):
            client.chat("y")

    assert (answer.text, len(server.asked)) == ("abc", 3)
    assert 1.0 <= waited_s < 10


def test_retry_after_may_be_a_number_a_date_or_nonsense() -> None:
    given = ["3", "Wed, 04 Mar 2026 05:06:17 GMT", "Wed, 04 Mar 2026 05:00:00 GMT", "soon", "-4", None]

    understood = [retry_after_s(text, now=NOW) for text in given]

    assert understood == [3.0, 10.0, 0.0, None, None, None]


@pytest.mark.usefixtures("impatient")
def test_nobody_there_says_what_to_check(nobody: str) -> None:
    with PredictionClient(nobody) as client, pytest.raises(ServerUnreachableError, match="`relay serve`") as caught:
        client.chat("x")

    assert nobody in str(caught.value)


def test_health_of_nobody_is_a_value(nobody: str) -> None:
    with PredictionClient(nobody) as client:
        health = client.health_check()

    assert (bool(health), health.is_alive) == (False, False)
    assert "cannot be reached" in health.reason


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "context_length_exceeded", RequestRefusedError),
        (401, "invalid_api_key", RequestRefusedError),
        (404, "model_not_found", RequestRefusedError),
        (500, "internal_error", ServerFaultError),
    ],
)
def test_what_does_not_pass_is_not_tried_again(server: Any, status: int, code: str, kind: type[Exception]) -> None:
    server.steps = [refusing(status, code)]

    with PredictionClient(server.url) as client, pytest.raises(kind, match="because of a test") as caught:
        client.chat("x")

    assert (caught.value.code, len(server.asked)) == (code, 1)  # type: ignore[attr-defined]


def test_a_missing_key_names_the_variable_and_is_the_users_to_mend(server: Any) -> None:
    server.steps = [refusing(401, "invalid_api_key")]

    with PredictionClient(server.url) as client, pytest.raises(UserError, match="RELAY_SERVE__API_KEY"):
        client.reload_model()


@pytest.mark.usefixtures("impatient")
def test_a_silent_server_is_given_up_and_not_asked_twice(server: Any) -> None:
    server.steps = [server.hanging]

    with PredictionClient(server.url, timeout_s=0.2) as client, pytest.raises(AnswerTimeoutError, match=r"0\.2 s"):
        client.chat("x")

    assert len(server.asked) == 1


@pytest.mark.usefixtures("impatient")
def test_an_answer_that_is_cut_is_not_asked_for_again(server: Any) -> None:
    def cut(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"choices"')
        handler.close_connection = True

    server.steps = [cut]

    with PredictionClient(server.url) as client, pytest.raises(ServerFaultError, match="was cut"):
        client.chat("x")

    assert len(server.asked) == 1


@pytest.mark.parametrize("document", [{"choices": []}, {"object": "list"}, ["no", "object"]])
def test_an_answer_of_something_else_is_no_traceback(server: Any, document: Any) -> None:
    server.steps = [answering(document)]

    with PredictionClient(server.url) as client, pytest.raises(ServerFaultError, match="check the address"):
        client.chat("x")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("last", "code"),
    [
        (b"", "connection_lost"),
        (b'data: {"error": {"message": "the engine died", "code": "engine_died"}}\n\n', "engine_died"),
        (b'data: {"error": "in plain words"}\n\n', "server_error"),
        (b"data: {cut\n\n", "not_understood"),
        (b"data: 7\n\n", "not_understood"),
    ],
)
def test_a_stream_that_breaks_says_so_and_keeps_its_text(server: Any, last: bytes, code: str) -> None:
    server.steps = [streaming(event("ab"), event("c"), last)]

    with PredictionClient(server.url) as client, pytest.raises(StreamBrokenError) as caught:
        "".join(client.stream("copy abc"))

    assert (caught.value.text, caught.value.version, caught.value.code) == ("abc", 7, code)
    assert len(server.asked) == 1


def test_a_stream_that_falls_silent_breaks_within_its_bound(server: Any) -> None:
    server.steps = [streaming(event("ab"), then=server.hanging)]

    with (
        PredictionClient(server.url, timeout_s=0.2) as client,
        pytest.raises(StreamBrokenError, match="silent") as caught,
    ):
        list(client.stream("x"))

    assert (caught.value.text, caught.value.code) == ("ab", "timeout")


@pytest.mark.usefixtures("impatient")
def test_a_stream_is_tried_again_while_it_has_not_begun(server: Any) -> None:
    server.steps = [refusing(503, "engine_restarting"), streaming(event("ab"), event(finish="length"))]

    with PredictionClient(server.url) as client:
        stream = client.stream("x")
        text = "".join(stream)

    assert (text, stream.finish_reason, len(server.asked)) == ("ab", "length", 2)


def test_every_kind_of_transport_error_becomes_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def kinds(of: type[Exception]) -> list[type[Exception]]:
        return [kind for sub in of.__subclasses__() for kind in (sub, *kinds(sub))]

    with PredictionClient("http://127.0.0.1:1", max_retries=0) as client:
        for kind in kinds(httpx.TransportError):

            def fail(*_: object, kind: type[Exception] = kind, **__: object) -> None:
                raise kind("as a test wished")

            monkeypatch.setattr(client._client, "send", fail)
            with pytest.raises(PredictionError):
                client.chat("x")
