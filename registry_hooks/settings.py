"""Settings: one YAML file, over it `RELAY_…`, over it the command line; `MLFLOW_*` and `AWS_*` fill what stays unset.

Every key has its unit in its name. An unknown key is refused with the nearest right one.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError

from registry_hooks.errors import SettingsError
from registry_hooks.setting_sections import (
    ClientSettings,
    EngineSettings,
    EvaluateSettings,
    PromoterSettings,
    PublishSettings,
    RegistrySettings,
    Section,
    ServeSettings,
    StackSettings,
    StoreSettings,
)

__all__ = [
    "DEFAULT_TRACKING_URI",
    "ENV_CONFIG",
    "ENV_PREFIX",
    "LOOPBACK_HOSTS",
    "ClientSettings",
    "EngineSettings",
    "EvaluateSettings",
    "PromoterSettings",
    "PublishSettings",
    "RegistrySettings",
    "ServeSettings",
    "Settings",
    "StackSettings",
    "StoreSettings",
    "known_keys",
    "load",
]

ENV_PREFIX = "RELAY_"
ENV_CONFIG = "RELAY_CONFIG"

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
DEFAULT_TRACKING_URI = "http://127.0.0.1:5000"


class Settings(Section):
    """All settings."""

    registry: RegistrySettings = Field(default_factory=RegistrySettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    publish: PublishSettings = Field(default_factory=PublishSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    serve: ServeSettings = Field(default_factory=ServeSettings)
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)
    promoter: PromoterSettings = Field(default_factory=PromoterSettings)
    client: ClientSettings = Field(default_factory=ClientSettings)
    stack: StackSettings = Field(default_factory=StackSettings)

    @property
    def tracking_uri(self) -> str:
        """Where MLflow is, after the fallbacks."""
        return self.registry.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_TRACKING_URI

    @property
    def mlflow_url(self) -> str:
        """Where people find MLflow's pages."""
        return (self.registry.public_url or self.tracking_uri).rstrip("/")

    @property
    def s3_endpoint_url(self) -> str | None:
        """Where S3 is, after the fallbacks; None for AWS itself."""
        return self.store.endpoint_url or os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None


def load(
    config: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    *,
    overrides: Mapping[str, Mapping[str, object]] | None = None,
) -> Settings:
    """Read the settings: defaults, then the YAML file, then `RELAY_SECTION__KEY` of the environment, then `overrides`.

    Args:
        config: The file; None takes `RELAY_CONFIG`, else `configs/local.yaml` of this folder if it is there.
        environ: The environment.
        overrides: What the command line says, by section and key; None values are passed over.

    Raises:
        SettingsError: A file that cannot be read, an unknown key (the nearest right one is named), a bad value.
    """
    path = config or (Path(environ[ENV_CONFIG]) if environ.get(ENV_CONFIG) else None)
    default = Path("configs/local.yaml")
    if path is None and default.is_file():
        path = default
    values = _read_yaml(path) if path else {}
    in_file = frozenset(values)
    origin = {section: str(path) for section in values}
    for section, key, value in _from_environment(environ):
        values.setdefault(section, {})[key] = value
        origin[section] = f"{path} and the environment" if section in in_file else "the environment"
    for section, keys in (overrides or {}).items():
        for key, value in keys.items():
            if value is not None:
                values.setdefault(section, {})[key] = value
                origin[section] = "the command line"
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_explain(error, origin)) from error


def known_keys() -> dict[str, dict[str, Any]]:
    """Every section and key, with the pydantic field behind it, for the docs and for error messages."""
    return {
        section: dict(field.annotation.model_fields)
        for section, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }


def _read_yaml(path: Path) -> dict[str, dict[str, Any]]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"settings file {path} cannot be read: {error}") from error
    document = {} if document is None else document
    if not isinstance(document, dict) or not all(isinstance(v, dict) for v in document.values() if v is not None):
        raise SettingsError(
            f"settings file {path} must hold sections with keys below them, such as `serve: {{port: 8765}}`"
        )
    return {str(section): dict(keys or {}) for section, keys in document.items()}


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENV_PREFIX) or variable == ENV_CONFIG:
            continue
        section, separator, key = variable.removeprefix(ENV_PREFIX).lower().partition("__")
        if not separator:
            raise SettingsError(_unknown(f"{section}", f"environment variable {variable}", as_variable=True))
        yield section, key, yaml.safe_load(text) if text.startswith("[") else text


def _explain(error: ValidationError, origin: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in problem["loc"])
        where = origin.get(str(problem["loc"][0]), "the defaults") if problem["loc"] else "the settings"
        if problem["type"] == "extra_forbidden":
            lines.append(_unknown(place, where))
        else:
            lines.append(f"{place} (from {where}): {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines)


def _unknown(place: str, where: str, *, as_variable: bool = False) -> str:
    names = [
        name for section, keys in known_keys().items() for name in (section, *(f"{section}.{key}" for key in keys))
    ]
    wanted = place.replace("__", ".")
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    if not near:  # a right key in a wrong section, or without any
        tail = wanted.rpartition(".")[2]
        near = [name for name in names if name.rpartition(".")[2] == tail][:1]
    spelled = [ENV_PREFIX + name.upper().replace(".", "__") if as_variable else name for name in near]
    hint = f"; did you mean {spelled[0]}?" if spelled else f"; sections are {', '.join(known_keys())}"
    return f"{place} ({where}): unknown key, nothing was started{hint}"
