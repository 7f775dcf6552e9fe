"""schemathesis invents requests from the engine's OpenAPI document, and breaks them in turn: no 5xx is found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.integration


@pytest.fixture
def document(gateway_of_clients: Any) -> dict[str, Any]:
    """What the engine behind the gateway says of itself; long answers prove nothing here and take time."""
    sockets = [line.laddr for engine in gateway_of_clients.engines() for line in engine.net_connections(kind="unix")]
    uds = next(path for path in sockets if str(path).endswith(".sock"))
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(uds)), base_url="http://engine") as engine:
        document: dict[str, Any] = engine.get("/openapi.json").json()
    for schema in document["components"]["schemas"].values():
        for name in ("max_tokens", "max_completion_tokens"):
            if name in schema.get("properties", {}):
                schema["properties"][name] = {"type": "integer", "minimum": 0, "maximum": 4}
    return document


def test_invented_requests_find_no_server_error(
    document: dict[str, Any], gateway_of_clients: Any, tmp_path: Path
) -> None:
    (tmp_path / "openapi.json").write_text(json.dumps(document), encoding="utf-8")
    program = str(Path(sys.executable).with_name("schemathesis"))
    command = [program, "run", "openapi.json", "--url", gateway_of_clients.url, "--no-color", "--seed", "1"]
    options = ["--checks", "not_a_server_error", "--phases", "examples,coverage,fuzzing", "--max-examples", "25"]
    done = subprocess.run(
        [*command, *options, "--request-timeout", "30"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    assert set(document["paths"]) >= {"/v1/chat/completions", "/v1/completions", "/v1/models"}
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
