"""Runs one program that is not ours, and ends it when our process is gone, however that went.

Usage: `python guard.py GRACE_S PROGRAM ARG…`, standard library only. The parent holds the write end of this process's
stdin. End of file there (the parent ended, also by `kill -9`) or SIGTERM here ends the program's process group:
SIGTERM, a grace, SIGKILL. The exit code is the program's.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

ORPHAN_GRACE_S = 1.0
_POLL_S = 0.05


def main(arguments: list[str]) -> int:
    """Run the program until it ends, the parent ends, or SIGTERM comes."""
    grace_s, command = float(arguments[0]), arguments[1:]
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    stops: list[int] = []
    signal.set_wakeup_fd(wake_write)  # select() then returns also when a handler ran just before it
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: stops.append(number))
    try:
        program = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be started: {error.strerror}\n")
        return 127
    try:
        while program.poll() is None and not stops:
            readable, _, _ = select.select([0, wake_read], [], [])
            if 0 in readable and not os.read(0, 4096):
                grace_s = min(grace_s, ORPHAN_GRACE_S)
                break
            if wake_read in readable:
                os.read(wake_read, 4096)
    finally:
        _end(program, grace_s)
    return program.returncode if program.returncode >= 0 else 128 - program.returncode


def _end(program: subprocess.Popen[bytes], grace_s: float) -> None:
    """End the whole group: the program, and what it left behind (MLflow starts workers)."""
    deadline = time.monotonic() + grace_s
    _signal_group(program.pid, signal.SIGTERM)
    while time.monotonic() < deadline and (program.poll() is None or _signal_group(program.pid, 0)):
        time.sleep(_POLL_S)
    _signal_group(program.pid, signal.SIGKILL)
    program.wait()


def _signal_group(group: int, number: int) -> bool:
    """Whether there was anybody to signal."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS answers the latter for a group of zombies
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
