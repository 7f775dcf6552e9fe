"""TCP ports of the local stack."""

from __future__ import annotations

import socket

from registry_hooks.errors import PortInUseError
from registry_hooks.settings import ENV_PREFIX


def take(port: int, *, host: str, setting: str) -> int:
    """`port` if nobody listens there, or a free one when it is 0.

    Args:
        port: 0 to 65535.
        host: Address to bind.
        setting: `section.key` of the setting that names the port, for the message.

    Raises:
        PortInUseError: Somebody listens there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            variable = ENV_PREFIX + setting.upper().replace(".", "__")
            raise PortInUseError(
                f"port {port} on {host} cannot be used ({error.strerror}), nothing was started: stop what listens "
                f"there, or set {setting} (or {variable}) to another port; 0 takes a free one"
            ) from error
        return int(probe.getsockname()[1])
