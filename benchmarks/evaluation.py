"""Items scored a second, beside lm-evaluation-harness: `python benchmarks/evaluation.py [--quick]`.

The same checkpoints (the demo's model, trained here for a minute, and the same padded to a larger one) and items, half
of them answers that the model writes, half choices by log-likelihood. The harness runs its own HF backend. Both are
processes of their own, and timed from their start to their last score, so imports, loading and, for us, the start of an
engine are in it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from support.report import RESULTS, Report, Row
from support.widened import save_widened

from pipeline.demo import tasks, training
from pipeline.demo.tasks import Example

STEPS = 300
SHOTS = 5  # as benchmarks of language models commonly have
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model and items to score it on; `prefix` stands before its rows, `shots` solved examples before each item."""

    prefix: str
    checkpoint: Path
    num_items: int
    shots: int


def write_items(room: Path, number: int, shots: int = 0) -> Path:
    """The items for both: one file for us, two for the harness."""
    rng = random.Random(7)
    room.mkdir(exist_ok=True)
    before = {name: "".join(_chat(tasks.example(name, rng)) for _ in range(shots)) for name in tasks.SLICES}
    texts, choices = [], []
    for place, one in enumerate(tasks.held_out(number // 8)):
        prompt = f"{before[one.slice]}<|user|>{one.prompt}<|end|><|assistant|>"
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


def _chat(one: Example) -> str:
    return f"<|user|>{one.prompt}<|end|><|assistant|>{one.answer}<|end|>"


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


def measure(room: Path, rounds: int, *, quick: bool) -> Report:
    """Train, then score by both in turn, subject by subject."""
    steps = 60 if quick else STEPS
    training.train(room / "training", save_at=[steps], seed=0)
    demo, large = room / "training" / f"checkpoint-{steps}", room / "large"
    num_parameters = save_widened(demo, large)
    few, many = (40, 80) if quick else (400, 2000)
    subjects = (
        Subject(prefix="", checkpoint=large, num_items=few, shots=SHOTS),
        Subject(prefix="zero_shot/", checkpoint=large, num_items=few, shots=0),
        Subject(prefix="demo/", checkpoint=demo, num_items=many, shots=0),
    )
    began_at_load = os.getloadavg()[0]
    rows = [
        row for number, subject in enumerate(subjects) for row in _measured(subject, room / f"items-{number}", rounds)
    ]
    return Report(
        name="evaluation-quick" if quick else "evaluation",
        title="Items scored a second, beside lm-evaluation-harness",
        lines=[
            f"Half of the items are texts that the model writes (greedy), half choices among up to four by "
            f"log-likelihood; {rounds} rounds, in turns; load average when it began: {began_at_load:.2f}.",
            f"`items_per_s`: the demo's model ({steps} steps), padded with zeros to {num_parameters / 1e6:.0f} M "
            f"parameters, which changes no answer; {few} items, {SHOTS} solved examples before each. `zero_shot/`: "
            f"without them. `demo/`: the demo's model of 0.8 M itself, {many:,} items, no examples.",
            "ours: `evaluate()`, which also measures the loss of every item. plain: lm-evaluation-harness, HF backend, "
            f"batch size {BATCH_SIZE}. Float32; each from the start of its process to its last score, so that imports "
            "and the start of an engine are in it: about 4 s of ours, 6 s of the harness's.",
            "What makes the difference with examples: whatever begins alike is read once by our engine, and by the "
            "harness for every item and choice.",
        ],
        rows=rows,
    )


def _measured(subject: Subject, room: Path, rounds: int) -> list[Row]:
    checkpoint, items = str(subject.checkpoint), write_items(room, subject.num_items, subject.shots)
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
            what = f"{subject.prefix or 'few-shot/'}{name}"
            print(f"{what}: {num_items} items in {seconds:.1f} s, {found[name]} (load {load:.2f})", flush=True)
    ours, peer = found["ours"], found["peer"]
    rows = [Row(what=f"{subject.prefix}items_per_s", ours=rates["ours"], peer=rates["peer"], unit="items/s")]
    return rows + [
        Row(what=f"{subject.prefix}{what}", ours=[ours[what]], peer=[peer[what]], unit="share")
        for what in ("exact_match", "accuracy")
    ]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few items and little training, to see that it runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None, help="folder of the results; default: benchmarks/results")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: it takes its servers down with it
    with tempfile.TemporaryDirectory(prefix="relay-evaluation-") as folder:
        report = measure(Path(folder), 1 if arguments.quick else arguments.rounds, quick=arguments.quick)
    report.write(arguments.out or (Path(tempfile.gettempdir()) if arguments.quick else RESULTS))


if __name__ == "__main__":
    main()
