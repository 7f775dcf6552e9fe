"""A server without a key answers to the names of this machine, and lets no foreign page change anything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from registry_hooks.settings import ServeSettings
from server.gateway.door import guest
from tests.gateway.front import CHAT, Front, a_front, answering, with_length

PAGE = "https://chat.example"


def judged(method: str, headers: dict[str, str], **serve: object) -> str | None:
    rule = guest(ServeSettings.model_validate(serve))
    assert rule is not None
    problem = rule.problem(method, headers)
    return problem.code if problem else None


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8765", "localhost.", "127.0.0.1:8765", "[::1]:8765", "relay.example", "relay.example:443"],
)
def test_the_names_of_this_machine_are_answered(host: str) -> None:
    assert judged("POST", {"host": host}, public_url="https://Relay.example/x") is None


@pytest.mark.parametrize(
    "host", ["attacker.example", "attacker.example:8765", "localhost.attacker.example", "127.0.0.1.nip.io", "[", "[::1"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_name_that_leads_here_is_not(host: str, method: str) -> None:
    assert judged(method, {"host": host}) == "host_not_allowed"


def test_a_health_check_without_a_host_is_answered() -> None:
    """HAProxy's, which speaks HTTP/1.0 there."""
    assert judged("GET", {}) is None


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"origin": "https://attacker.example"}, "origin_not_allowed"),
        ({"origin": "null"}, "origin_not_allowed"),
        ({"origin": "http://["}, "origin_not_allowed"),
        ({"sec-fetch-site": "cross-site"}, "origin_not_allowed"),
        ({"origin": "http://localhost:3000"}, None),
        ({"origin": "http://127.0.0.1:8765", "sec-fetch-site": "same-origin"}, None),
        ({}, None),
    ],
)
def test_only_pages_of_this_machine_may_post(headers: dict[str, str], code: str | None) -> None:
    assert judged("POST", {"host": "localhost", **headers}) == code
    assert judged("GET", {"host": "localhost", **headers}) is None


@pytest.mark.parametrize("origins", [(PAGE,), ("*",)])
def test_a_page_that_the_settings_name_may(origins: tuple[str, ...]) -> None:
    headers = {"host": "localhost", "origin": PAGE, "sec-fetch-site": "cross-site"}

    assert judged("POST", headers, cors_origins=origins) is None


def test_with_a_key_the_key_decides() -> None:
    assert guest(ServeSettings.model_validate({"api_key": "0123456789abcdef"})) is None


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with a_front(answering(with_length(b"{}"))) as running:
        yield running


@pytest.fixture(scope="module")
def open_front() -> Iterator[Front]:
    with a_front(answering(with_length(b"{}")), cors_origins=(PAGE,)) as running:
        yield running


@pytest.mark.parametrize("headers", [{"host": "attacker.example"}, {"origin": "https://attacker.example"}])
def test_a_stranger_is_told_why(front: Front, headers: dict[str, str]) -> None:
    chat = front.client.post("/v1/chat/completions", json=CHAT, headers=headers)
    reload = front.client.post("/models/reload?force=true", headers=headers)

    assert (chat.status_code, reload.status_code) == (403, 403)
    assert "serve." in chat.json()["error"]["message"]


def test_no_page_may_read_answers_unless_a_setting_says_so(front: Front, open_front: Front) -> None:
    asked = {"origin": PAGE, "access-control-request-method": "POST", "access-control-request-headers": "x-a"}
    shut = front.client.options("/v1/chat/completions", headers=asked)
    preflight = open_front.client.options("/v1/chat/completions", headers=asked)
    answer = open_front.client.post("/v1/chat/completions", json=CHAT, headers={"origin": PAGE})
    other = open_front.client.get("/v1/models", headers={"origin": "https://other.example"})

    assert "access-control-allow-origin" not in shut.headers
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, PAGE)
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "access-control-allow-origin" not in other.headers
