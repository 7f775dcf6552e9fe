"""`python -m pipeline.demo`: the whole road on one box, from training to service. `make demo` runs the same."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType

from rich.console import Console

from pipeline.demo import tasks
from pipeline.demo.narrator import Narrator
from pipeline.demo.story import Outcome, Scene, play, scene, whys
from pipeline.promotion import reading
from pipeline.stack.local import write_env_file
from registry_hooks import settings
from registry_hooks.errors import RelayError, StackError, UserError
from registry_hooks.settings import Settings

SAVE_AT = (100, 250, 750, 790)
DEMO_DIR = "demo"
PROMOTER_INTERVAL_S = 1.0
_TABLE_WIDTH = 140
_LOOK_S = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when it showed everything that it promises, 2 for what the user can mend, else 1."""
    options = _options(argv)
    for number in (signal.SIGINT, signal.SIGTERM):  # explicitly: a shell starts background jobs with SIGINT ignored
        signal.signal(number, _stop)
    terminal = Console(highlight=False)
    console = terminal if terminal.is_terminal else Console(highlight=False, width=_TABLE_WIDTH)
    try:
        return _run(options, Narrator(console), console)
    except KeyboardInterrupt:
        console.print("stopped before its end")
        return 130
    except RelayError as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 2 if isinstance(error, UserError) else 1


def _run(options: argparse.Namespace, tell: Narrator, console: Console) -> int:
    loaded = settings.load(options.config)
    run_dir = loaded.stack.data_dir.resolve() / DEMO_DIR / f"{datetime.now():%Y%m%d-%H%M%S}"
    run_dir.mkdir(parents=True)
    tell.say(f"everything that this demo writes is in {run_dir}, its logs in {run_dir / 'logs'}")
    with scene(_in(run_dir, loaded), run_dir, tell) as on:
        outcome = play(on, options.steps)
        if _report(on, outcome, tell, console):
            return 1
        if options.keep:
            _hold(on, outcome, console)
    return 0


def _in(run_dir: Path, loaded: Settings) -> Settings:
    """The same settings, with everything that is written below `run_dir`, and a core left for the training."""
    return loaded.model_copy(
        update={
            "stack": loaded.stack.model_copy(update={"data_dir": run_dir}),
            "serve": loaded.serve.model_copy(update={"cache_dir": run_dir / "cache"}),
            "engine": loaded.engine.model_copy(update={"num_threads": 1}),
            "evaluate": loaded.evaluate.model_copy(update={"test_set": run_dir / "test-set.jsonl"}),
            "promoter": loaded.promoter.model_copy(update={"interval_s": PROMOTER_INTERVAL_S}),
        }
    )


def _report(on: Scene, outcome: Outcome, tell: Narrator, console: Console) -> bool:
    """Print what the demo showed; whether something is missing."""
    for number, word in whys(on, outcome):
        console.print(f"\n$ relay why {number}     ({word})", style="bold", highlight=False)
        console.print(reading.why(on.hands, number))
    tell.show_verdicts(outcome.entries)
    tell.show_timeline(outcome.passages)
    tell.show_answers(tasks.questions(), outcome.first, outcome.last)
    tell.show_usage(outcome.usage)
    for fault in outcome.faults:
        console.print(f"failed: {fault}", style="red", markup=False)
    for sentence in outcome.shortcomings:
        console.print(f"not shown: {sentence}", style="red", markup=False)
    if not outcome.shortcomings:
        tell.say("no request was lost, the best version answers better than the first, and the person's move stands")
    return bool(outcome.shortcomings)


def _hold(on: Scene, outcome: Outcome, console: Console) -> None:
    """Leave everything running until Ctrl-C or SIGTERM.

    Raises:
        StackError: A program ended by itself.
    """
    env_file = write_env_file(on.stack, on.place.run_dir)
    model, alias = on.settings.registry.name, on.settings.registry.alias
    body = f'{{"messages": [{{"role": "user", "content": "{tasks.questions()[-1].prompt}"}}]}}'
    lines = (
        f"MLflow, the versions side by side:  {on.person.compare_link(outcome.versions)}",
        f"MLflow, move {alias} here:  {on.stack.tracking_uri}/#/models/{model}?workflowType=machine_learning",
        f"what is served, and why:  curl -s {on.url}/models/info",
        f"chat:  curl -s {on.url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'",
        f"in another terminal, for mlflow and relay:  source {env_file}",
        f"  export MLFLOW_TRACKING_URI={on.stack.tracking_uri} MLFLOW_S3_ENDPOINT_URL={on.stack.s3_endpoint_url}",
        f"  export RELAY_EVALUATE__TEST_SET={on.settings.evaluate.test_set}",
        "demo is ready; Ctrl-C stops everything",
    )
    console.print()
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    try:
        while on.server.alive and on.stack.dead is None:
            time.sleep(_LOOK_S)
    except KeyboardInterrupt:
        console.print("stopping")
        return
    finally:
        env_file.unlink(missing_ok=True)  # the keys in it open nothing any more
    dead = on.stack.dead or on.server
    raise StackError(
        f"{dead.name} ended by itself, so all was stopped; its log {dead.log} ends with:\n{dead.log_tail()}"
    )


def _stop(number: int, frame: FrameType | None) -> None:
    """Leave by the way of every `finally`; a second signal must not break into that."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline.demo", description="The road from training to service.")
    keep_by_env = os.environ.get("KEEP", "") not in ("", "0")
    parser.add_argument("--keep", action="store_true", default=keep_by_env, help="leave all running; also KEEP=1")
    parser.add_argument("--steps", type=_steps, default=SAVE_AT, help="steps of the checkpoints, with commas")
    parser.add_argument("--config", type=Path, help="settings file (YAML)")
    return parser.parse_args(argv)


def _steps(text: str) -> tuple[int, ...]:
    steps = tuple(int(step) for step in text.split(","))
    if len(steps) < 4 or list(steps) != sorted(set(steps)) or steps[0] < 1:
        raise argparse.ArgumentTypeError("at least four different steps, rising, such as 100,250,750,790")
    return steps


if __name__ == "__main__":
    sys.exit(main())
