"""Pages of MLflow, as links for people, in the mode that shows models: it would open in its GenAI mode by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import quote

_MODE = "workflowType=machine_learning"


def version_link(mlflow_url: str, name: str, version: int) -> str:
    """The page of a version."""
    return f"{mlflow_url}/#/models/{quote(name, safe='')}/versions/{version}?{_MODE}"


def compare_link(mlflow_url: str, name: str, runs: Mapping[str, str]) -> str:
    """The page that shows the metrics of `runs` (version → run id) side by side."""
    query = f"name={quote(json.dumps(name))}&runs={quote(json.dumps(dict(runs), separators=(',', ':')))}"
    return f"{mlflow_url}/#/compare-model-versions?{query}&{_MODE}"
