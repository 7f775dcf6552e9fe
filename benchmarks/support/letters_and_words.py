"""The 29 M-parameter Qwen3 of the serving benchmark: random weights, and a tokenizer that makes lengths exact.

Every character of a prompt is one token, and nearly every token that the model writes is a whole word, so prompts have
the length that the benchmark wants and each token is one visible piece of a stream.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

VOCAB_SIZE = 16384
MAX_LEN_TOKENS = 1024
_SPECIALS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def save_29m(folder: Path, *, seed: int = 0) -> None:
    """Write the model and its tokenizer, float32, as a Trainer would."""
    tokenizer = _tokenizer()
    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=384,
        intermediate_size=1440,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=MAX_LEN_TOKENS,
        tie_word_embeddings=False,
        bos_token_id=None,
        # Nothing ends an answer but its length: a random model would end one in a few thousand tokens.
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    state = {"global_step": 100, "log_history": [{"step": 100, "eval_loss": 9.7}]}
    (folder / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")


def _tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [f"Ġword{number}" for number in range(VOCAB_SIZE - len(letters) - len(_SPECIALS))]
    bpe = Tokenizer(models.BPE(vocab={symbol: number for number, symbol in enumerate(letters + words)}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=_SPECIALS[0],
        eos_token=_SPECIALS[1],
        additional_special_tokens=list(_SPECIALS[2:]),
        model_max_length=MAX_LEN_TOKENS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer
