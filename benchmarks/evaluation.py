"""Items scored a second, beside lm-evaluation-harness: `python benchmarks/evaluation.py [--quick]`.

One checkpoint (the demo's model, trained here for a minute) and the same items: half of them answers that the model
writes, half choices by log-likelihood. The harness runs its own HF backend. Both are processes of their own, and timed
from their start to their last score, so imports, loading and, for us, the start of an engine are in it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support.report import RESULTS, Report, Row

from pipeline.demo import tasks, training

STEPS = 300
OURS = """
import json, sys
from pathlib import Path
from pipeline.evaluation import test_set
from pipeline.evaluation.evaluating import evaluate
from registry_hooks.settings import EngineSettings
found = evaluate(Path(sys.argv[1]), test_set.load(Path(sys.argv[2])), settings=EngineSettings(), deadline_s=600)
print(json.dumps({"exact_match": found.overall.exact_match, "accuracy": found.overall.accuracy}))
"""
HARNESS = """
import json, sys
import lm_eval
from lm_eval.tasks import TaskManager
done = lm_eval.simple_evaluate(
    model="hf", model_args={"pretrained": sys.argv[1], "dtype": "float32", "device": "cpu"},
    batch_size=int(sys.argv[3]),
    tasks=["choosing", "writing"], task_manager=TaskManager(include_path=sys.argv[2], include_defaults=False),
    bootstrap_iters=0, verbosity="ERROR",
)["results"]
print(json.dumps({"exact_match": done["writing"]["exact_match,none"], "accuracy": done["choosing"]["acc,none"]}))
"""
_COMMON = """
dataset_path: json
test_split: test
doc_to_text: "{{prompt}}"
"""
CHOOSING = f"""
task: choosing
dataset_kwargs: {{data_files: {{test: CHOICES}}}}{_COMMON}
output_type: multiple_choice
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
WRITING = f"""
task: writing
dataset_kwargs: {{data_files: {{test: TEXTS}}}}{_COMMON}
output_type: generate_until
doc_to_target: answer
target_delimiter: ""
generation_kwargs: {{until: ["\\n"], max_gen_toks: 16, do_sample: false, temperature: 0}}
metric_list: [{{metric: exact_match}}]
"""
BATCH_SIZE = 32  # of the harness; as many as we ask at once


def write_items(room: Path, number: int) -> Path:
    """The items for both: one file for us, two for the harness."""
    rng = random.Random(7)
    texts, choices = [], []
    for place, one in enumerate(tasks.held_out(number // 8)):
        prompt = f"<|user|>{one.prompt}<|end|><|assistant|>"
        texts.append({"id": f"text-{place}", "slice": one.slice, "prompt": prompt, "answer": one.answer})
        wrong = {tasks.example(one.slice, rng).answer for _ in range(8)} - {one.answer}
        options = [one.answer, *sorted(wrong)[:3]]
        rng.shuffle(options)
        gold = options.index(one.answer)
        choices.append(
            {"id": f"choice-{place}", "slice": one.slice, "prompt": prompt, "choices": options, "answer": gold}
        )
    for name, items in (("texts", texts), ("choices", choices), ("all", texts + choices)):
        (room / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    for name, text in (("choosing", CHOOSING), ("writing", WRITING)):
        text = text.replace("CHOICES", str(room / "choices.jsonl")).replace("TEXTS", str(room / "texts.jsonl"))
        (room / f"{name}.yaml").write_text(text, encoding="utf-8")
    return room / "all.jsonl"


def scored(program: str, *arguments: str, room: Path) -> tuple[dict[str, float], float]:
    """What a program scored, and its seconds."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(room / "hf")}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=env, capture_output=True, text=True, timeout=900, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    scores: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return scores, seconds


def measure(room: Path, number: int, rounds: int, steps: int) -> Report:
    """Train, then score by both in turn."""
    training.train(room / "training", save_at=[steps], seed=0)
    checkpoint, items = str(room / "training" / f"checkpoint-{steps}"), write_items(room, number)
    num_items = sum(1 for _ in items.open(encoding="utf-8"))
    rates: dict[str, list[float]] = {"ours": [], "peer": []}
    found: dict[str, dict[str, float]] = {}
    sides = {
        "ours": lambda: scored(OURS, checkpoint, str(items), room=room),
        "peer": lambda: scored(HARNESS, checkpoint, str(room), str(BATCH_SIZE), room=room),
    }
    for turn in range(rounds):
        for name in sides if turn % 2 == 0 else reversed(sides):
            found[name], seconds = sides[name]()
            rates[name].append(num_items / seconds)
            load = os.getloadavg()[0]
            print(f"{name}: {num_items} items in {seconds:.1f} s, {found[name]} (load {load:.2f})", flush=True)
    ours, peer = found["ours"], found["peer"]
    rows = [Row(what="items_per_s", ours=rates["ours"], peer=rates["peer"], unit="items/s")]
    rows += [Row(what=what, ours=[ours[what]], peer=[peer[what]], unit="share") for what in ("exact_match", "accuracy")]
    return Report(
        name="evaluation-quick" if number < 1000 else "evaluation",
        title="Items scored a second, beside lm-evaluation-harness",
        lines=[
            f"The demo's model (0.8 M parameters, {steps} steps), float32; {num_items:,} items, half of them texts "
            f"that it writes (greedy), half choices among up to four by log-likelihood; {rounds} rounds, in turns.",
            "ours: `evaluate()`, which also measures the loss of every item. plain: lm-evaluation-harness, HF backend, "
            f"batch size {BATCH_SIZE}. Each from the start of its process to its last score.",
        ],
        rows=rows,
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few items and little training, to see that it runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None, help="folder of the results; default: benchmarks/results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-evaluation-") as folder:
        quick = arguments.quick
        rounds, steps = (1, 60) if quick else (arguments.rounds, STEPS)
        report = measure(Path(folder), 200 if quick else 2000, rounds, steps)
    report.write(arguments.out or (Path(tempfile.gettempdir()) if arguments.quick else RESULTS))


if __name__ == "__main__":
    main()
