"""Whose certificates are trusted: a private certificate authority, named as other programs want it named.

`REQUESTS_CA_BUNDLE` and `CURL_CA_BUNDLE` are what MLflow's client and pip read, `SSL_CERT_FILE` and `SSL_CERT_DIR` what
OpenSSL and httpx do. Each takes the place of the usual authorities, as it does there.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from registry_hooks.errors import SettingsError

_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


def authority(environ: Mapping[str, str], *first: str) -> tuple[str, Path] | None:
    """The variable that names an authority, and its file or folder; None where the usual ones are meant.

    Args:
        first: Variables that come before the common ones.

    Raises:
        SettingsError: It names nothing.
    """
    for variable in (*first, *_VARIABLES):
        named = environ.get(variable, "")
        if not named:
            continue
        if not Path(named).exists():
            raise SettingsError(
                f"{variable} names {named}, which does not exist, so nothing can be trusted and nothing was asked: "
                "name the certificate of your authority, or unset it"
            )
        return variable, Path(named)
    return None


def context(environ: Mapping[str, str], *first: str) -> ssl.SSLContext | None:
    """What TLS connections are checked by; None where the usual authorities are meant.

    Raises:
        SettingsError: The authority cannot be read.
    """
    found = authority(environ, *first)
    if found is None:
        return None
    variable, path = found
    try:
        if path.is_dir():
            return ssl.create_default_context(capath=str(path))
        return ssl.create_default_context(cafile=str(path))
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"{variable}={path} cannot be used: {error}") from error


def is_distrust(said: object) -> bool:
    """Whether a connection failed since nobody here trusts the other side's certificate."""
    return "certificate_verify_failed" in str(said).lower().replace(" ", "_")
