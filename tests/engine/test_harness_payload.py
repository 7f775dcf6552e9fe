"""lm-evaluation-harness's own requests are read: its tasks have more stop strings than OpenAI takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml
from lm_eval.models.openai_completions import LocalCompletionsAPI


class _Tasks(yaml.SafeLoader):
    """The harness's YAML, whose functions are of no interest here."""


_Tasks.add_multi_constructor("!function", lambda *_: None)


@pytest.mark.parametrize("task", ["humaneval/humaneval.yaml", "gsm8k/gsm8k.yaml"])
def test_a_task_that_writes_is_answered(api: Any, task: str) -> None:
    text = (Path(lm_eval.__file__).parent / "tasks" / task).read_text(encoding="utf-8")
    until = yaml.load(text, _Tasks)["generation_kwargs"]["until"]  # noqa: S506 - it is a SafeLoader
    harness = LocalCompletionsAPI.__new__(LocalCompletionsAPI)
    harness.model, harness._max_gen_toks, harness._seed, harness._eos_string = "demo", 16, 1, None
    payload = harness._create_payload(
        ["def f():"], generate=True, gen_kwargs={"until": until, "max_gen_toks": 4}, eos="<|endoftext|>"
    )

    assert len(payload["stop"]) > 1
    assert api.complete(**payload).status_code == 200
