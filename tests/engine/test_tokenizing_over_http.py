"""Who asks the engine what it reads gets the very ids that it would answer, as vLLM's `/tokenize` has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from server.engine import loading
from server.engine.loading import LoadedModel, LoadOptions

CHAT = [{"role": "user", "content": "hi"}]


@pytest.fixture
def post(make_api: Callable[..., Any]) -> Callable[..., Any]:
    api = make_api()
    return lambda path, **body: api.request("POST", path, json=body)


def test_a_prompt_has_the_ids_that_the_engine_counts(post: Callable[..., Any], loaded: LoadedModel) -> None:
    found = post("/tokenize", prompt="hi größe", return_token_strs=True).json()

    assert found["tokens"] == loaded.tokenizer("hi größe").input_ids
    assert (found["count"], found["max_model_len"]) == (len(found["tokens"]), loaded.max_model_len_tokens)
    assert found["token_strs"] == loaded.tokenizer.convert_ids_to_tokens(found["tokens"])
    answer = post("/v1/completions", prompt="hi größe", max_tokens=1).json()
    assert answer["usage"]["prompt_tokens"] == found["count"]


def test_a_chat_is_rendered_and_tokenized_as_it_is_answered(post: Callable[..., Any], loaded: LoadedModel) -> None:
    found = post("/tokenize", messages=CHAT).json()

    text = loaded.tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    assert found["prompt"] == text
    assert found["tokens"] == loaded.tokenizer(text, add_special_tokens=False).input_ids
    assert post("/v1/chat/completions", messages=CHAT, max_tokens=1).json()["usage"]["prompt_tokens"] == found["count"]
    closed = post("/tokenize", messages=CHAT, add_generation_prompt=False).json()
    assert closed["count"] < found["count"]


def test_what_only_the_tokenizers_class_knows_is_in_the_ids(
    checkpoint: Path, tmp_path: Path, make_api: Callable[..., Any]
) -> None:
    """`tokenizer.json` alone knows neither: here stand a beginning token, and a variable of the template."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.add_special_tokens({"bos_token": tokenizer.eos_token})
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    api = make_api(loading.load(tmp_path, LoadOptions(device="cpu", num_threads=1)))

    found = api.request("POST", "/tokenize", json={"messages": CHAT}).json()

    assert found["prompt"] == f"{tokenizer.eos_token}hi"
    assert found["tokens"][0] == tokenizer.eos_token_id


def test_variables_reach_the_template_and_the_clients_own_templates_do_not(post: Callable[..., Any]) -> None:
    assert post("/tokenize", messages=CHAT, chat_template_kwargs={"enable_thinking": False}).status_code == 200

    refused = post("/tokenize", messages=CHAT, chat_template_kwargs={"chat_template": "x"})
    assert refused.json()["error"]["param"] == "chat_template_kwargs"
    assert post("/tokenize", messages=CHAT, chat_template="x").json()["error"]["param"] == "chat_template"


def test_ids_become_their_text_again(post: Callable[..., Any], loaded: LoadedModel) -> None:
    text = "hi größe"
    ids = [*loaded.tokenizer(text).input_ids, loaded.tokenizer.eos_token_id]

    assert post("/detokenize", tokens=ids).json() == {"prompt": text + loaded.tokenizer.eos_token}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": CHAT}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": CHAT, "tools": [{}]}, "tools"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [10**9]}, "tokens"),
        ("/detokenize", {"tokens": "abc"}, "tokens"),
    ],
)
def test_a_wrong_request_names_its_field(post: Callable[..., Any], path: str, body: dict[str, Any], param: str) -> None:
    refused = post(path, **body)

    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param


def test_another_models_name_is_refused(post: Callable[..., Any]) -> None:
    assert post("/tokenize", model="another", prompt="x").status_code == 404
