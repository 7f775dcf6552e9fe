"""One engine process that real clients talk to."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

WAIT_S = 90


@pytest.fixture(scope="session")
def engine_url(checkpoint: Path) -> Iterator[str]:
    """The base URL of `python -m server.engine` on the lively checkpoint, which it calls `lively`."""
    command = [sys.executable, "-m", "server.engine", str(checkpoint), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(
        [*command, "--num-threads", "1"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready: http://127.0.0.1:"), line
        yield line.split()[1]
        process.send_signal(signal.SIGINT)
        process.wait(WAIT_S)
