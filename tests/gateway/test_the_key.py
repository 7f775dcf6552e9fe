"""Who has the key comes in; an empty key is no key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from registry_hooks import settings
from registry_hooks.errors import SettingsError
from tests.gateway.front import Front, a_front

KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with a_front(api_key=KEY) as running:
        yield running


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {KEY}", 200),
        (f"bearer {KEY}", 200),
        (f"BEARER   {KEY}", 200),
        (KEY, 401),
        (f"Basic {KEY}", 401),
        (f"Bearer {KEY}0", 401),
        ("Bearer", 401),
        ("", 401),
    ],
)
def test_a_bearer_key_comes_in_however_the_scheme_is_written(front: Front, header: str, status: int) -> None:
    assert front.client.get("/v1/models", headers={"authorization": header}).status_code == status


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m"])
def test_nobody_comes_in_without_the_key(front: Front, path: str) -> None:
    assert front.client.get(path).status_code == 401


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/models/reload"])
def test_nobody_asks_without_the_key(front: Front, path: str) -> None:
    assert front.client.post(path, json={}).status_code == 401


@pytest.mark.parametrize("value", ["", " ", "\t"])
def test_a_key_that_is_set_but_empty_is_refused_before_anything_starts(value: str) -> None:
    with pytest.raises(SettingsError, match=r"serve\.api_key .*set, but empty"):
        settings.load(environ={"RELAY_SERVE__API_KEY": value})


def test_a_short_key_still_works() -> None:
    """People have them; the log warns."""
    assert settings.load(environ={"RELAY_SERVE__API_KEY": "abc"}).serve.api_key is not None
