"""Test sets of a few items, and a small model to score on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.demo.world import save_untrained
from registry_hooks.settings import EngineSettings

PROMPT = {"id": "p1", "prompt": "copy: abc\nanswer:", "answer": " abc", "slice": "copy"}
CHOICE = {"id": "c1", "prompt": "the sky is ", "choices": ["blue", "a fish", "7"], "answer": 0, "slice": "facts"}
CHAT = {"id": "m1", "messages": [{"role": "user", "content": "say hi"}], "answer": "hi"}
CHAT_CHOICE = {
    "id": "m2",
    "messages": [{"role": "system", "content": "be short"}, {"role": "user", "content": "is 7 odd?"}],
    "choices": ["no", "yes", "perhaps so"],
    "answer": 1,
    "slice": "facts",
}
ONE_OF_EACH = (PROMPT, CHOICE, CHAT, CHAT_CHOICE)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes lines, given as JSON or as they are, into a file."""

    def make(*lines: Any, name: str = "held-out.jsonl") -> Path:
        path = tmp_path / name
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        path.write_text("\n".join(texts), encoding="utf-8")
        return path

    return make


@pytest.fixture(scope="session")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with large weights: its answers differ from item to item."""
    folder = tmp_path_factory.mktemp("evaluation") / "lively"
    save_untrained(folder, seed=3, initializer_range=0.2)
    return folder


@pytest.fixture(scope="session")
def engine() -> EngineSettings:
    """One thread, since the tests' neighbours are busy too."""
    return EngineSettings(device="cpu", num_threads=1, stop_grace_s=2)
