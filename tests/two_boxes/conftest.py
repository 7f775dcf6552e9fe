"""Two boxes on one machine: network namespaces that a veth pair joins, with a cable that can be pulled."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

# Of the range for benchmarks (RFC 2544): MLflow lets private addresses in by itself, and names and these it does not.
TRAINING_ADDRESS, INFERENCE_ADDRESS = "198.18.77.1", "198.18.77.2"
TRAINING_NAME = "training-box"
_CLONE_NEWNET = 0x40000000
_CALL_TIMEOUT_S = 60.0

T = TypeVar("T")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


@dataclass(frozen=True)
class Box:
    """One network namespace."""

    namespace: str
    device: str

    def command(self, *program: str) -> list[str]:
        """The command that runs a program in this box."""
        return ["ip", "netns", "exec", self.namespace, *program]

    def inside(self, call: Callable[[], T]) -> T:
        """Call something whose new sockets belong to this box."""
        outcome: list[Any] = []
        thread = threading.Thread(target=self._call, args=(call, outcome), daemon=True)
        thread.start()
        thread.join(_CALL_TIMEOUT_S)
        assert outcome, f"no answer in {self.namespace} within {_CALL_TIMEOUT_S:g} s"
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        result: T = outcome[0]
        return result

    def _call(self, call: Callable[[], T], outcome: list[Any]) -> None:
        try:
            with Path(f"/run/netns/{self.namespace}").open() as file:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(file.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            outcome.append(call())
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it again
            outcome.append(error)


@dataclass(frozen=True)
class TwoBoxes:
    """Nothing is shared but the cable, which is pulled at the inference box."""

    training: Box
    inference: Box

    def cut(self) -> None:
        ip("-n", self.inference.namespace, "link", "set", self.inference.device, "down")

    def heal(self) -> None:
        ip("-n", self.inference.namespace, "link", "set", self.inference.device, "up")


@pytest.fixture(scope="module")
def _joined() -> Iterator[TwoBoxes]:
    """Both boxes; afterwards nothing is left of them."""
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and `ip`")
    number = os.getpid()
    training = Box(namespace=f"relay-t-{number}", device=f"rt{number}")
    inference = Box(namespace=f"relay-i-{number}", device=f"ri{number}")
    with ExitStack() as cleaning:
        try:
            for box in (training, inference):
                ip("netns", "add", box.namespace)
                cleaning.callback(ip, "netns", "del", box.namespace)
                cleaning.enter_context(_hosts_file(box))
            _join(training, inference)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces do not work here: {error.stderr.decode().strip()}")
        yield TwoBoxes(training, inference)


@pytest.fixture
def two_boxes(_joined: TwoBoxes) -> Iterator[TwoBoxes]:
    """Both boxes, with a cable that is whole again afterwards."""
    yield _joined
    _joined.heal()


def _join(training: Box, inference: Box) -> None:
    ends: Sequence[tuple[Box, str]] = ((training, TRAINING_ADDRESS), (inference, INFERENCE_ADDRESS))
    peer = ("peer", "name", inference.device, "netns", inference.namespace)
    ip("link", "add", training.device, "netns", training.namespace, "type", "veth", *peer)
    for box, address in ends:
        ip("-n", box.namespace, "address", "add", f"{address}/30", "dev", box.device)
        ip("-n", box.namespace, "link", "set", box.device, "up")
        ip("-n", box.namespace, "link", "set", "lo", "up")


@contextmanager
def _hosts_file(box: Box) -> Iterator[None]:
    """`ip netns exec` shows this file as /etc/hosts to the programs of a box."""
    folder = Path("/etc/netns") / box.namespace
    folder.mkdir(parents=True)
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{TRAINING_ADDRESS} {TRAINING_NAME}\n")
    try:
        yield
    finally:
        shutil.rmtree(folder)
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()
