"""The page of MLflow's UI that shows versions side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from urllib.parse import quote


def compare_link(tracking_uri: str, name: str, runs: Mapping[str, str]) -> str:
    """The compare page for `runs` (version → run id), in the mode that shows metrics."""
    query = f"name={quote(json.dumps(name))}&runs={quote(json.dumps(dict(runs), separators=(',', ':')))}"
    return f"{tracking_uri}/#/compare-model-versions?{query}&workflowType=machine_learning"
