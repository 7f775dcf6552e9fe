"""`relay why` on a narrow terminal and in a pipe: links stay whole, and so do sentences where nobody looks."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.promotion import reading

LINK = "http://mlflow/#/compare-model-versions?runs=" + "0123456789abcdef" * 20


def test_a_link_is_on_one_line_however_narrow_the_terminal(
    settled: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    settled.registry.describe_version("model", 2, f"Promoted.\n\n[Compare it in MLflow]({LINK})")

    reading.show(reading.why(settled.hands, 2))

    assert f"Compare it in MLflow: {LINK}\n" in capsys.readouterr().out


def test_a_sentence_in_a_pipe_is_not_broken(settled: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = "It is better on these items, and nobody would have thought so: " + "word " * 20 + "end."
    settled.registry.describe_version("model", 2, sentence)

    reading.show(reading.why(settled.hands, 2))

    assert sentence in capsys.readouterr().out
