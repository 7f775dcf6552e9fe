"""A scripted server, and a client that does not wait between its tries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import stamina

from tests.client.scripted_server import ScriptedServer


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    yield scripted
    scripted.close()


@pytest.fixture
def impatient() -> Iterator[None]:
    """Four tries, without the waits between them."""
    with stamina.set_testing(True, attempts=4):
        yield
