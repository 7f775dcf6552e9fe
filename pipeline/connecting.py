"""The registry that the settings name, for commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.settings import Settings


@contextmanager
def connected(settings: Settings) -> Iterator[MlflowRegistry]:
    """A connection to it, closed at the end.

    Raises:
        SettingsError: The address of MLflow is none.
    """
    timeouts = settings.registry
    registry = MlflowRegistry(
        settings.tracking_uri, timeout_s=timeouts.timeout_s, write_timeout_s=timeouts.write_timeout_s
    )
    try:
        yield registry
    finally:
        registry.close()
