"""Folders that other tools and older versions wrote: what is odd about them and harms nothing is served."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AddedToken, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.models.auto import auto_factory

from pipeline.demo.world import build_tokenizer
from registry_hooks import checkpoint_files
from registry_hooks.errors import Blame, NotACheckpointError, RelayError, SettingsError, blame_of
from server.engine.loading import LoadedModel, LoadOptions, load

ON_CPU = LoadOptions(device="cpu", num_threads=1)


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.inference_mode():
        answer: torch.Tensor = loaded.model(input_ids=torch.tensor([[1, 2, 3]])).logits
    return answer


def test_an_end_token_that_only_the_tokenizer_names_ends_an_answer(folder: Path) -> None:
    change_json(folder / "generation_config.json", eos_token_id=7)
    user, assistant = build_tokenizer().convert_tokens_to_ids(["<|user|>", "<|assistant|>"])
    change_json(folder / "config.json", eos_token_id=[user, assistant])
    loaded = load(folder, ON_CPU)

    assert loaded.eos_ids == {7, user, assistant, loaded.tokenizer.eos_token_id}


def test_a_plain_piece_of_text_that_only_the_config_calls_the_end_ends_nothing(folder: Path) -> None:
    """LlamaConfig writes 2, which is the character # in the vocabulary of a model trained from nothing."""
    change_json(folder / "config.json", eos_token_id=2)
    loaded = load(folder, ON_CPU)

    assert loaded.tokenizer.decode([2]) == "#"
    assert loaded.eos_ids == {loaded.tokenizer.eos_token_id}


@pytest.mark.parametrize("installed", [True, False])
def test_an_adapter_beside_a_merged_model_is_not_part_of_it(
    folder: Path, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = logits(load(folder, ON_CPU))
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "/nowhere"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    save_file({"x": torch.zeros(2)}, folder / "adapter_model.safetensors")
    monkeypatch.setattr(auto_factory, "is_peft_available", lambda: installed)

    assert torch.equal(logits(load(folder, ON_CPU)), plain)


def test_a_refusal_names_the_folder_that_was_given(folder: Path) -> None:
    (folder / "notes.txt").write_text("so that only links to the listed files are loaded")
    change_json(folder / "config.json", model_type="nobody_knows_it")
    with pytest.raises(NotACheckpointError) as refused:
        load(folder, ON_CPU)

    assert str(folder) in str(refused.value)
    assert "relay-engine-" not in str(refused.value)


@pytest.fixture
def old_gpt2(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=320, n_embd=32, n_layer=1, n_head=2, n_positions=16, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "old")
    build_tokenizer().save_pretrained(tmp_path / "old")
    return tmp_path / "old"


def test_an_end_token_that_nobody_wrote_down_is_none(old_gpt2: Path) -> None:
    config = json.loads((old_gpt2 / "config.json").read_text())
    config.pop("eos_token_id")
    (old_gpt2 / "config.json").write_text(json.dumps(config))
    loaded = load(old_gpt2, ON_CPU)

    assert loaded.model.config.eos_token_id == 50256  # the class's own
    assert loaded.eos_ids == {0, loaded.tokenizer.eos_token_id}


def test_mask_buffers_of_old_saves_are_no_fault(old_gpt2: Path) -> None:
    plain = logits(load(old_gpt2, ON_CPU))
    masks = {"bias": torch.ones(1, 1, 16, 16).tril(), "masked_bias": torch.tensor(-1e4)}
    old = {f"transformer.h.0.attn.{name}": tensor for name, tensor in masks.items()}
    old |= {"transformer.h.0.attention.bias": masks["bias"].bool(), "transformer.rotary_emb.inv_freq": torch.ones(4)}
    change_weights(old_gpt2, lambda weights: weights.update(old))

    assert torch.equal(logits(load(old_gpt2, ON_CPU)), plain)


def test_a_trained_tensor_of_a_buffers_name_is_a_fault(old_gpt2: Path) -> None:
    change_weights(old_gpt2, lambda weights: weights.update({"transformer.h.0.attention.bias": torch.ones(32)}))
    with pytest.raises(NotACheckpointError, match=r"1 unexpected keys, such as transformer\.h\.0\.attention\.bias"):
        load(old_gpt2, ON_CPU)


def test_empty_tensors_of_zero3_are_named_with_what_to_do(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.empty(0)}))
    with pytest.raises(NotACheckpointError, match=r"model\.norm\.weight in .* is empty \(shape \[0\]\).*zero_to_fp32"):
        checkpoint_files.inspect(folder)


def test_a_sentencepiece_vocabulary_alone_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>")
    monkeypatch.setattr(checkpoint_files, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match="pip install sentencepiece protobuf"):
        checkpoint_files.inspect(folder)

    monkeypatch.setattr(checkpoint_files, "find_spec", lambda name: name)

    assert "tokenizer.model" in checkpoint_files.inspect(folder).files


def test_a_token_without_a_row_in_the_embedding_harms_only_who_uses_it(folder: Path) -> None:
    tokenizer = build_tokenizer()
    rows = len(load_file(folder / "model.safetensors")["model.embed_tokens.weight"])
    while len(tokenizer) <= rows:
        tokenizer.add_tokens([AddedToken(f"<image_{len(tokenizer)}>", special=True)], special_tokens=True)
    tokenizer.save_pretrained(folder)
    loaded = load(folder, ON_CPU)

    assert loaded.vocab_size == rows
    assert len(loaded.tokenizer) > rows


def caused_by(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "blame"),
    [
        (ValueError("no such rope type"), Blame.VERSION),
        (OSError("Error no file named merges.txt"), Blame.VERSION),  # how transformers says it
        (OSError(12, "Cannot allocate memory"), Blame.MOMENT),
        (torch.OutOfMemoryError("CUDA out of memory"), Blame.MOMENT),
        (ImportError("requires the Tiktoken library"), Blame.BOX),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), Blame.MOMENT),
        (RuntimeError("can't start new thread"), Blame.MOMENT),
        (OSError("Error while deserializing header: I/O error: Too many open files (os error 24)"), Blame.MOMENT),
        (caused_by(ValueError("the tokenizer does not load"), OSError(24, "Too many open files")), Blame.MOMENT),
        (caused_by(ValueError("the tokenizer does not load"), KeyError("added_tokens")), Blame.VERSION),
    ],
)
def test_a_load_that_fails_for_this_machines_sake_is_not_the_versions_fault(
    folder: Path, error: Exception, blame: Blame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(RelayError) as raised:
        load(folder, ON_CPU)

    assert blame_of(raised.value) is blame
