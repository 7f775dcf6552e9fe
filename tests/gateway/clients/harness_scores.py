"""Has lm-evaluation-harness score one checkpoint twice: `python harness_scores.py CHECKPOINT URL FOLDER`.

First by its own HF backend in this process, then by `local-completions` over HTTP. Prints both as one JSON line.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

_CHOOSING = """
task: choosing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
_WRITING = """
task: writing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 12, do_sample: false, temperature: 0}}
metric_list: [{{metric: exact_match}}]
"""


def write_tasks(folder: Path) -> None:
    """Two tasks on a few questions of random letters."""
    rng = random.Random(0)

    def word(low: int, high: int) -> str:
        return "".join(rng.choices("abcdefghij ", k=rng.randint(low, high)))

    lines = [
        {"question": f"Q: {word(5, 60)}\nA:", "choices": [word(1, 8).strip() or "x" for _ in range(3)], "gold": n % 3}
        for n in range(8)
    ]
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    for name, text in (("choosing", _CHOOSING), ("writing", _WRITING)):
        (folder / f"{name}.yaml").write_text(text.format(data=data), encoding="utf-8")


def scores(model: str, arguments: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The harness's metrics and every answer that it got, by task."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    tasks = TaskManager(include_path=str(folder), include_defaults=False)
    done = lm_eval.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=["choosing", "writing"],
        task_manager=tasks,
        bootstrap_iters=0,
        log_samples=True,
        verbosity="ERROR",
    )
    return {
        task: {
            "metrics": {k: v for k, v in done["results"][task].items() if isinstance(v, float) and "stderr" not in k},
            "answers": [
                sample["filtered_resps"] for sample in sorted(done["samples"][task], key=lambda s: s["doc_id"])
            ],
        }
        for task in ("choosing", "writing")
    }


def main() -> None:
    """Score by both ways."""
    checkpoint, url, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    write_tasks(folder)
    own = {"pretrained": checkpoint, "dtype": "float32", "device": "cpu"}
    ours = {
        "model": Path(checkpoint).name,
        "base_url": f"{url}/completions",
        "tokenizer": checkpoint,
        "tokenizer_backend": "huggingface",
        "num_concurrent": 4,
        "max_length": 256,
    }
    result = {"own": scores("hf", own, folder), "ours": scores("local-completions", ours, folder)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
