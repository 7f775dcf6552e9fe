"""The chat template of a checkpoint as it stands in its files: nothing is rendered here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry_hooks.errors import NotACheckpointError

_TEMPLATE_FILE, _CONFIG_FILE = "chat_template.jinja", "tokenizer_config.json"


def template_text(folder: Path) -> str:
    """The template; empty without one.

    Raises:
        NotACheckpointError: A file cannot be read.
    """
    path = folder / _TEMPLATE_FILE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = _document(folder / _CONFIG_FILE).get("chat_template") or ""
    if isinstance(found, list):
        found = next((entry.get("template", "") for entry in found if entry.get("name") == "default"), "")
    return str(found)


def _document(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise NotACheckpointError(f"{path} cannot be read ({error}): nothing was evaluated") from error
    return document if isinstance(document, dict) else {}
