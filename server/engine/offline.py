"""No hub access, ever: an engine serves a folder, and a name that is no folder must not become a download."""

from __future__ import annotations

import os


def go_offline() -> None:
    """Tell the Hugging Face libraries, before they are imported, that there is no network."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
