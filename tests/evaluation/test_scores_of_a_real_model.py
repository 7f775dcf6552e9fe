"""The scores that an engine gives are those that transformers gives by itself, item by item."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.evaluation import test_set as test_sets
from pipeline.evaluation.evaluating import evaluate
from pipeline.evaluation.results import Evaluation
from pipeline.evaluation.test_set import TestSet
from registry_hooks.settings import EngineSettings

pytestmark = pytest.mark.integration
DEADLINE_S = 60.0


def lines() -> list[dict[str, Any]]:
    """Items of every kind, whose spaces and answers differ."""
    found: list[dict[str, Any]] = []
    for number in range(6):
        space = " " * (number % 3)
        chat = [{"role": "user", "content": f"is {number} odd?{space}"}]
        found += [
            {"id": f"p{number}", "prompt": f"copy {number}:{space}", "answer": f" {number} größe", "slice": "copy"},
            {"id": f"c{number}", "prompt": f"{number} is{space}", "choices": ["odd", "even", "a b"], "answer": 1},
            {"id": f"m{number}", "messages": chat, "answer": "yes\nno", "slice": "chat"},
            {"id": f"n{number}", "messages": chat, "choices": ["y", "n", "maybe not"], "answer": number % 3},
        ]
    return found


class Direct:
    """The same model by transformers alone."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def prompt(self, line: dict[str, Any]) -> str:
        if "prompt" in line:
            return str(line["prompt"])
        return str(self.tokenizer.apply_chat_template(line["messages"], tokenize=False, add_generation_prompt=True))

    @torch.no_grad()
    def logprob(self, line: dict[str, Any], answer: str) -> tuple[float, int]:
        """Sum and number of tokens; the demo's tokens are bytes, so that the border is a matter of counting."""
        prompt = self.prompt(line)
        context = prompt.rstrip() if "prompt" in line else prompt
        ids = self.tokenizer(prompt + answer, add_special_tokens=False, return_tensors="pt").input_ids
        num_context = len(self.tokenizer(context, add_special_tokens=False).input_ids)
        logprobs = self.model(ids).logits.double().log_softmax(-1)[0, :-1]
        picked = logprobs.gather(1, ids[0, 1:, None])[num_context - 1 :, 0]
        return float(picked.sum()), len(picked)

    @torch.no_grad()
    def says(self, line: dict[str, Any], num_tokens: int) -> str:
        ids = self.tokenizer(self.prompt(line), add_special_tokens=False, return_tensors="pt").input_ids
        made = self.model.generate(ids, max_new_tokens=num_tokens, do_sample=False, attention_mask=torch.ones_like(ids))
        return str(self.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))


Scored = tuple[list[dict[str, Any]], TestSet, Evaluation]


@pytest.fixture(scope="module")
def scored(lively: Path, engine: EngineSettings, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    path = tmp_path_factory.mktemp("sets") / "held-out.jsonl"
    path.write_text("\n".join(map(json.dumps, lines())))
    items = test_sets.load(path)
    return lines(), items, evaluate(lively, items, settings=engine, deadline_s=DEADLINE_S)


@pytest.fixture(scope="module")
def direct(lively: Path) -> Direct:
    return Direct(lively)


def assert_same_scores(one: Evaluation, other: Evaluation) -> None:
    """Equal but for the last digits of the losses: which items share a batch is a matter of chance."""
    for mine, theirs in zip(one.items, other.items, strict=True):
        assert replace(mine, loss=0.0) == replace(theirs, loss=0.0)
        assert mine.loss == pytest.approx(theirs.loss, abs=1e-5)


def test_every_loss_and_choice_is_that_of_a_direct_computation(scored: Scored, direct: Direct) -> None:
    asked, _, evaluation = scored
    by_id = {item.item_id: item for item in evaluation.items}

    assert set(by_id) == {line["id"] for line in asked}
    for line in asked:
        item, answers = by_id[line["id"]], line.get("choices") or [line["answer"]]
        found = [direct.logprob(line, answer) for answer in answers]
        logprob, num_tokens = found[line["answer"] if "choices" in line else 0]
        assert item.num_tokens == num_tokens
        assert item.loss == pytest.approx(-logprob / num_tokens, abs=2e-4)
        if "choices" in line:
            best = max(range(len(found)), key=lambda place: found[place][0])
            assert (item.said, item.score) == (str(best), float(best == line["answer"]))
    assert {by_id[line["id"]].score for line in asked if "choices" in line} == {0.0, 1.0}


def test_every_text_is_what_transformers_generates(scored: Scored, direct: Direct) -> None:
    asked, _, evaluation = scored
    by_id = {item.item_id: item for item in evaluation.items}

    for line in asked:
        if "choices" not in line:
            assert by_id[line["id"]].said == direct.says(line, len(line["answer"].encode()) + 8)


def test_the_same_evaluation_again_gives_the_same_scores_and_fingerprint(
    scored: Scored, lively: Path, engine: EngineSettings
) -> None:
    _, items, first = scored
    again = evaluate(lively, items, settings=engine, deadline_s=DEADLINE_S)

    assert_same_scores(again, first)
    assert again.fingerprint == first.fingerprint


def test_another_chat_template_is_another_form_and_may_be_compared(
    scored: Scored, lively: Path, engine: EngineSettings, tmp_path: Path
) -> None:
    _, items, first = scored
    other = copytree(lively, tmp_path / "other")
    template = (other / "chat_template.jinja").read_text()
    (other / "chat_template.jinja").write_text(template + "{# another, of the same effect #}")
    found = evaluate(other, items, settings=engine, deadline_s=DEADLINE_S)

    assert_same_scores(found, first)
    assert found.fingerprint == first.fingerprint
    assert {key for key in first.form if found.form[key] != first.form[key]} == {"chat template"}
