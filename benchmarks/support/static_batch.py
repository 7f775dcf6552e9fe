"""One left-padded batch of plain `generate` in a process of its own: `python static_batch.py FOLDER LONGEST PACK`.

Prints tokens per second, prefill included, of the second of two runs. PACK is `packed` or `stock`: the linear layers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

NUM_ROWS = 16


def tokens_per_s(folder: Path, *, longest: int, packed: bool) -> float:
    """Measure in a new process, whose main thread is the only one that computes."""
    command = [sys.executable, __file__, str(folder), str(longest), "packed" if packed else "stock"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["tokens_per_s"])


def _measure(folder: str, longest: int, *, packed: bool) -> float:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from support.streaming_clients import NEW_TOKENS, prompts

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if packed:
        from server.engine.packed_linear import pack_linears

        pack_linears(model)
    texts = prompts(NUM_ROWS, longest=longest, seed=7)
    chats = [[{"role": "user", "content": text}] for text in texts]
    batch = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    batch.pop("token_type_ids", None)
    rate = 0.0
    for _ in range(2):
        since = time.perf_counter()
        with torch.inference_mode():
            ids = model.generate(**batch, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
        num_new = (ids.shape[1] - batch["input_ids"].shape[1]) * NUM_ROWS
        rate = num_new / (time.perf_counter() - since)
    return rate


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    print(json.dumps({"tokens_per_s": _measure(sys.argv[1], int(sys.argv[2]), packed=sys.argv[3] == "packed")}))
