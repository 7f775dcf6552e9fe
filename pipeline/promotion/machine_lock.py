"""Locks between all processes of a machine, whoever started them: a name that one process has, and no file.

A file in a temporary folder is another one to a service with `PrivateTmp`, and cannot always be opened by the next
user. The abstract Unix sockets of Linux have neither fault, and end with the process. Elsewhere a file has to do.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from registry_hooks import file_lock
from registry_hooks.settings import LOOPBACK_HOSTS, Settings

Release = Callable[[], None]

_POLL_S = 0.1
_PORTS = {"http": 80, "https": 443}


def name_of(what: str, settings: Settings) -> str:
    """The name of a lock of one registered model: the same under all names that this machine has for the registry."""
    url = urlsplit(settings.tracking_uri.strip().lower())
    is_here = url.hostname in (*LOOPBACK_HOSTS, socket.gethostname().lower())
    place = f"{'localhost' if is_here else url.hostname}:{url.port or _PORTS.get(url.scheme)}{url.path.rstrip('/')}"
    digest = hashlib.sha256(f"{place}\n{settings.registry.name}".encode()).hexdigest()[:16]
    return f"relay-{what}-{digest}"


def try_lock(name: str) -> Release | None:
    """What lets go of the lock again; None when somebody has it."""
    return _try_socket(name) if sys.platform == "linux" else _try_file(name)


@contextmanager
def waited_for(name: str, *, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock; wait for it first, as long as it takes.

    Args:
        on_wait: Called once when somebody else has it.
    """
    release = try_lock(name)
    if release is None:
        on_wait()
    while release is None:
        time.sleep(_POLL_S)
        release = try_lock(name)
    try:
        yield
    finally:
        release()


def _try_socket(name: str) -> Release | None:
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.bind(f"\0{name}")
    except OSError as error:
        lock.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return lock.close


def _try_file(name: str) -> Release | None:
    path = Path(tempfile.gettempdir()) / f"{name}-{os.getuid()}.lock"
    path.touch(mode=0o600)
    lock = file_lock.try_exclusive(path)
    return None if lock is None else lambda: os.close(lock)
