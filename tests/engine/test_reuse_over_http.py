"""What clients see of prompts that begin alike: the count of cached tokens, and scores from a place on."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

LONG = "the same long beginning of every question: "


def cached(body: dict[str, Any]) -> int:
    return int(body["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_usage_says_how_much_of_a_prompt_was_there_already(api: Any) -> None:
    first = api.complete(prompt=LONG + "one", temperature=0).json()
    second = api.complete(prompt=LONG + "two", temperature=0).json()
    whole = api.complete(prompt=LONG + "two", temperature=0, stop=second["choices"][0]["text"][:1]).json()

    assert cached(first) == 0
    assert cached(second) == len(LONG)
    assert cached(whole) == len(LONG + "two") - 1
    assert whole["usage"]["completion_tokens"] >= 1
    lines = dict(line.rsplit(" ", 1) for line in api.get("/metrics").text.splitlines() if line[0] != "#")
    assert float(lines["relay_engine_reused_prompt_tokens_total"]) >= 2 * len(LONG)


def test_several_answers_count_their_prompt_once(api: Any) -> None:
    body = api.complete(prompt="a prompt that nobody has sent yet", n=3, temperature=0).json()

    assert cached(body) == 0
    assert len({choice["text"] for choice in body["choices"]}) == 1


def test_scores_may_begin_in_the_middle_of_a_prompt(api: Any) -> None:
    options = {"prompt": LONG, "echo": True, "logprobs": 2, "max_tokens": 0}
    whole = api.complete(**options).json()["choices"][0]["logprobs"]
    part = api.complete(**options, logprob_start_len=20).json()["choices"][0]["logprobs"]

    assert part["tokens"] == whole["tokens"]
    assert part["token_logprobs"][:20] == [None] * 20 == part["top_logprobs"][:20]
    assert part["token_logprobs"][20:] == pytest.approx(whole["token_logprobs"][20:], abs=1e-4)


@pytest.mark.parametrize("start", [len(LONG), len(LONG) + 100])
def test_a_place_behind_the_prompt_scores_none_of_it(api: Any, start: int) -> None:
    response: httpx.Response = api.complete(prompt=LONG, echo=True, logprobs=0, max_tokens=1, logprob_start_len=start)
    scores = response.json()["choices"][0]["logprobs"]["token_logprobs"]

    assert scores[: len(LONG)] == [None] * len(LONG)
    assert len(scores) == len(LONG) + 1


@pytest.mark.parametrize("start", [-1, "all", 1.5])
def test_a_place_that_is_none_is_refused_by_name(api: Any, start: object) -> None:
    response = api.complete(echo=True, logprobs=0, logprob_start_len=start)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "logprob_start_len"
