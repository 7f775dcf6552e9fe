"""When two addresses mean one MLflow server. Pure; standard library only."""

from __future__ import annotations

from urllib.parse import urlsplit

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1", "0.0.0.0")  # noqa: S104 - compared with, never bound
_PORTS = {"http": 80, "https": 443}


def same_server(one: str, other: str) -> bool:
    """Whether both addresses are surely one server: `localhost` is `127.0.0.1`, a port may be left out, keys too."""
    return _plain(one) == _plain(other)


def _plain(uri: str) -> tuple[str, str, int | None, str]:
    parts = urlsplit(uri.strip())
    host = (parts.hostname or "").rstrip(".")
    try:
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:  # no number
        port = None
    return parts.scheme, "localhost" if host in _THIS_MACHINE else host, port, parts.path.rstrip("/")
