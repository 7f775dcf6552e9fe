"""The HAProxy configuration that docs/behind-a-balancer.md explains: HAProxy takes it, and the page names its lines."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = (ROOT / "configs" / "haproxy.cfg").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "behind-a-balancer.md").read_text(encoding="utf-8")
UNIT = (ROOT / "configs" / "systemd" / "relay-server.service").read_text(encoding="utf-8")


def test_streams_that_a_leaving_server_finishes_are_not_cut() -> None:
    assert "shutdown-sessions" not in CONFIG


def test_the_notice_is_longer_than_the_balancer_takes_to_see_it() -> None:
    inter_s, fall = (int(value) for value in re.search(r"inter (\d+)s fall (\d+)", CONFIG).groups())  # type: ignore[union-attr]
    notice_s = int(UNIT.partition("RELAY_SERVE__DRAIN_NOTICE_S=")[2].split()[0])

    assert notice_s > inter_s * (fall + 1)


@pytest.mark.parametrize("named", re.findall(r"`((?:option|retry-on|balance|timeout|inter|observe) [^`]+)`", PAGE))
def test_the_page_explains_lines_that_are_there(named: str) -> None:
    stands_in_place_of_a_line = "x-session-id" in named

    assert stands_in_place_of_a_line or named in CONFIG


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is not installed")
def test_haproxy_takes_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(re.sub(r"box-[ab]:8765", "127.0.0.1:8765", CONFIG), encoding="utf-8")
    done = subprocess.run(["haproxy", "-c", "-f", str(config)], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
