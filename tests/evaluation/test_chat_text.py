"""A chat reads here as it reads to the engine, whose transformers applies the template."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import pytest

from pipeline.demo.world import build_tokenizer
from pipeline.evaluation.chat_text import ChatText
from pipeline.evaluation.test_set import Turn
from registry_hooks.errors import EvaluationError, NotACheckpointError

CHAT = [
    {"role": "system", "content": "be\nshort"},
    {"role": "user", "content": " <b>größe</b> 'x' "},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "and 東京?"},
]
TURNS = [Turn(role=turn["role"], content=turn["content"]) for turn in CHAT]
TEMPLATES = {
    "the demo's": build_tokenizer().chat_template,
    "chatml": "{%- for m in messages %}\n    {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n",
    "special tokens": "{{ bos_token }}{{ eos_token }}{{ pad_token }}{% for m in messages %}{{ m['content'] | trim }}\n"
    "  {% if loop.last %}\n  end{{ eos_token }}\n  {% endif %}\n{% endfor %}",
    "json": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}[{{ m.content }}]{% endif %}{% endfor %}",
    "loop controls": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}"
    "{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}",
    "tools": "{% if tools is none and documents is none %}none{% else %}{{ tools }}{% endif %}"
    "{% set ns = namespace(last='') %}{% for m in messages %}{% set ns.last = m.content %}{% endfor %}{{ ns.last }}",
    "the year": "{{ strftime_now('%Y') }}",
}


def folder_with(tmp_path: Path, template: str | None) -> Path:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_a_chat_reads_as_transformers_has_it(tmp_path: Path, template: str) -> None:
    folder = folder_with(tmp_path, template)
    tokenizer = build_tokenizer()
    wanted = tokenizer.apply_chat_template(CHAT, chat_template=template, tokenize=False, add_generation_prompt=True)

    assert ChatText(folder).render(TURNS) == wanted


def test_a_template_in_the_tokenizers_config_counts_too(tmp_path: Path) -> None:
    old = copytree(folder_with(tmp_path / "new", None), tmp_path / "old")
    config = json.loads((old / "tokenizer_config.json").read_text())
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    (old / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))

    assert ChatText(old).render(TURNS) == "yes"


def test_a_checkpoint_without_a_template_cannot_answer_chats(tmp_path: Path) -> None:
    chats = ChatText(folder_with(tmp_path, None))

    with pytest.raises(EvaluationError, match="no chat template"):
        chats.render(TURNS)


@pytest.mark.parametrize("template", ["{{ raise_exception('roles must alternate') }}", "{{ nothing.at.all }}"])
def test_a_template_that_refuses_is_an_error(tmp_path: Path, template: str) -> None:
    chats = ChatText(folder_with(tmp_path, template))

    with pytest.raises(EvaluationError, match="refuses the messages"):
        chats.render(TURNS)


def test_a_template_that_is_none_is_an_error(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "{% for m in %}")

    with pytest.raises(EvaluationError, match="template is none"):
        ChatText(folder)


def test_a_template_cannot_reach_out(tmp_path: Path) -> None:
    chats = ChatText(folder_with(tmp_path, "{{ ''.__class__.__mro__ }}"))

    with pytest.raises(EvaluationError, match="refuses the messages"):
        chats.render(TURNS)


def test_a_broken_tokenizer_config_is_named(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, None)
    (folder / "tokenizer_config.json").write_text("{")

    with pytest.raises(NotACheckpointError, match=r"tokenizer_config.json"):
        ChatText(folder)
