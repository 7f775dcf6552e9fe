"""What ends an answer beside its length: stop strings that no text shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.demo.world import ROLES, build_tokenizer
from server.engine import generation

ROLE = next(iter(ROLES))
ROLE_ID = build_tokenizer().convert_tokens_to_ids(ROLE)


@pytest.mark.parametrize("generate", [None, generation.generate])
def test_a_stop_string_that_is_a_special_token_ends_the_answer_as_it_is_made(
    make_api: Callable[..., Any], generate: Any
) -> None:
    ask = {"temperature": 0, "max_tokens": 9, "logit_bias": {str(ROLE_ID): 100}}
    api = make_api(generate=generate)
    endless = api.complete(**ask).json()
    ended = api.complete(**ask, stop=["x", ROLE]).json()

    assert (endless["choices"][0]["finish_reason"], endless["usage"]["completion_tokens"]) == ("length", 9)
    assert (ended["choices"][0]["finish_reason"], ended["usage"]["completion_tokens"]) == ("stop", 0)


def test_a_stop_string_that_is_a_plain_token_is_found_in_the_text(api: Any) -> None:
    token_id = build_tokenizer()("z").input_ids[0]
    answer = api.complete(temperature=0, max_tokens=9, logit_bias={str(token_id): 100}, stop=["z"]).json()

    assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == ("", "stop")
