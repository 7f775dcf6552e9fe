"""Where an engine listens: a Unix socket for a launcher, a TCP port for people. No torch: mistakes are told at once."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from registry_hooks.errors import EngineStartError, PortInUseError


@contextlib.contextmanager
def listen_on_uds(path: Path) -> Iterator[socket.socket]:
    """A Unix socket that only this user can reach; its file is removed afterwards.

    Raises:
        PortInUseError: Another process listens there.
        EngineStartError: The path is no place for a socket.
    """
    _clear_leftover(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(str(path))
            path.chmod(0o600)
        except OSError as error:
            raise EngineStartError(f"cannot listen on {path}: {error}; nothing is served", stage="listen") from error
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def listen_on_tcp(host: str, port: int) -> Iterator[socket.socket]:
    """A TCP socket; port 0 takes a free one.

    Raises:
        PortInUseError: Another process listens there.
        EngineStartError: The address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen()  # a second bind with SO_REUSEADDR fails only against one that listens
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(
                    f"port {port} of {host} is in use: nothing was started; choose another one, or 0 for any"
                ) from error
            raise EngineStartError(f"cannot listen on {host}:{port}: {error}", stage="listen") from error
        yield listener


def _clear_leftover(path: Path) -> None:
    """Remove the socket of an engine that is gone."""
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return
    if not is_socket:
        raise EngineStartError(f"{path} exists and is no socket: it was left alone; name another path", stage="listen")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise PortInUseError(f"another process listens on {path}: nothing was started; name another path")
