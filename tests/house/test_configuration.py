"""docs/configuration.md says what the settings are. This file is also the program that `make config-docs` runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from registry_hooks import settings
from registry_hooks.errors import SettingsError
from server.gateway.serving import check_key

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "configuration.md"
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))

PREFACE = """\
# Configuration

<!-- Written by `make config-docs` from registry_hooks/settings.py; a test keeps the two equal. -->

Three layers, the later one wins: the defaults below, one YAML file, the environment.

- **File.** `--config FILE`, else the file that `RELAY_CONFIG` names, else `configs/local.yaml` in the current folder if
  it is there. Sections hold keys: `serve: {port: 8765}`.
- **Environment.** `RELAY_SECTION__KEY`, two underscores between the parts: `RELAY_SERVE__PORT=8765`. A list is written
  as in YAML: `RELAY_PUBLISH__GOLDEN_PROMPTS='["One.", "Two."]'`.
- **What you have set already.** `MLFLOW_TRACKING_URI` and `MLFLOW_S3_ENDPOINT_URL` fill their keys where these are
  unset. Credentials come from `AWS_*` or the usual AWS files, `MLFLOW_TRACKING_*` for MLflow; no setting holds them.
  `MINIO_BIN` names the MinIO binary for `relay up`. `CUDA_VISIBLE_DEVICES` is passed on to the engines.

An unknown key or variable stops the program with exit code 2 and the nearest right name. Sizes and times have their
unit in the name: `_s` is seconds, `_bytes` bytes, `_tokens` tokens.
"""


def page() -> str:
    """The whole of docs/configuration.md."""
    return PREFACE + "".join(_section(name, keys) for name, keys in settings.known_keys().items())


def _section(name: str, keys: dict[str, Any]) -> str:
    purpose = settings.Settings.model_fields[name].annotation.__doc__
    rows = [_row(name, key, field) for key, field in keys.items()]
    head = "| Key and variable | Default | Unit | Allowed | What it is |\n|---|---|---|---|---|\n"
    return f"\n## {name}\n\n{purpose}\n\n{head}" + "".join(rows)


def _row(section: str, key: str, field: Any) -> str:
    variable = f"{settings.ENV_PREFIX}{section}__{key}".upper()
    cells = [f"`{key}`<br>`{variable}`", _default(field), _unit(key), _allowed(field), field.description]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _default(field: Any) -> str:
    if field.default_factory is not None:
        return "*worked out*"
    if field.default in ("", (), None):
        return "*unset*"
    return f"`{field.default}`" if not isinstance(field.default, bool) else f"`{str(field.default).lower()}`"


def _unit(key: str) -> str:
    units = {"_s": "seconds", "_bytes": "bytes", "_tokens": "tokens"}
    found = [unit for suffix, unit in units.items() if key.endswith(suffix)]
    return found[0] if found else "count" if key.startswith(("num_", "max_")) else ""


def _allowed(field: Any) -> str:
    choices = get_args(field.annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        return ", ".join(f"`{choice}`" for choice in choices)
    if field.annotation is bool:
        return "`true`, `false`"
    signs = {"gt": "> ", "ge": "≥ ", "lt": "< ", "le": "≤ "}
    bounds = [
        f"{sign}{getattr(rule, name):g}"
        for rule in field.metadata
        for name, sign in signs.items()
        if getattr(rule, name, None) is not None
    ]
    patterns = [f"`{rule.pattern}`" for rule in field.metadata if getattr(rule, "pattern", None)]
    return ", ".join(bounds + patterns)


def test_the_page_says_what_the_settings_are() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "docs/configuration.md is out of date: run `make config-docs`"


def test_every_key_is_described() -> None:
    undescribed = [
        f"{section}.{key}"
        for section, keys in settings.known_keys().items()
        for key, field in keys.items()
        if not field.description
    ]

    assert not undescribed


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_the_example_configurations_load(config: Path) -> None:
    loaded = settings.load(config, environ={"RELAY_SERVE__API_KEY": "test-key"})

    assert loaded.registry.alias == "Production"


def test_the_inference_box_is_refused_without_a_key() -> None:
    loaded = settings.load(ROOT / "configs" / "inference-box.yaml", environ={})

    with pytest.raises(SettingsError, match="RELAY_SERVE__API_KEY"):
        check_key(loaded.serve)


if __name__ == "__main__":
    sys.stdout.write(page())


def test_a_wrong_variable_among_several_is_told_once_from_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    several = {"RELAY_SERVE__PORT": "8766", "RELAY_SERVE__PRT": "1", "RELAY_SERVE__HOST": "127.0.0.1"}
    file = tmp_path / "relay.yaml"
    file.write_text("serve: {port: 8765}")

    with pytest.raises(SettingsError, match=r"serve\.prt \(the environment\): unknown key"):
        settings.load(environ=several)
    with pytest.raises(SettingsError, match=r"relay\.yaml and the environment\): unknown key"):
        settings.load(file, several)
