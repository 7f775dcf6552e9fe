"""The promoter's commands of `relay`. They import what they need when they run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from registry_hooks import settings
from registry_hooks.errors import SettingsError
from registry_hooks.settings import Settings

if TYPE_CHECKING:
    from pipeline.promotion.acting import Hands
    from pipeline.promotion.rule import Difference

Config = Annotated[Path | None, typer.Option("--config", help="Settings file. Default: configs/local.yaml if there.")]
Number = Annotated[int, typer.Argument(min=1, help="Number of the version.")]
Why = Annotated[str, typer.Option("--why", help="For the record.")]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]
TestSet = Annotated[Path | None, typer.Option("--test-set", help="JSONL file. Default: evaluate.test_set.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `relay`."""
    commands: tuple[Callable[..., None], ...] = (
        promoter,
        reconcile,
        promote,
        rollback,
        hold,
        release,
        freeze,
        quarantine,
        unquarantine,
        rejudge,
        forget,
        history,
        why,
        evaluate,
        rank,
    )
    for command in commands:
        app.command()(command)


def promoter(config: Config = None, test_set: TestSet = None) -> None:
    """Judge new versions and move the alias when one is really better, until Ctrl-C."""
    from pipeline.promotion import scheduling
    from registry_hooks import events

    events.configure()
    raise typer.Exit(scheduling.run(_load(config, test_set), say=_say))


def reconcile(
    config: Config = None,
    test_set: TestSet = None,
    without_test_set: Annotated[
        bool, typer.Option("--without-test-set", help="Let the policy's score_metric decide, in this one pass.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done next.")] = False,
) -> None:
    """Do one pass of the promoter. It compares nothing by a weaker rule than the last automatic decision."""
    from pipeline.promotion import reconciling, scheduling, wiring
    from pipeline.promotion.stepping import next_step
    from registry_hooks import events

    events.configure("ERROR")
    if test_set is not None and without_test_set:
        raise SettingsError("--test-set and --without-test-set contradict each other, so nothing was done: give one")
    loaded = _load(config, test_set)
    with wiring.promoter_of(loaded, without_test_set=without_test_set) as (one, _):
        if dry_run:
            _warn(one.difference())
            _say(f"next: {reconciling.describe(next_step(one.look()))}")
            return
        waiting = "a promoter's own pass is under way, which may score versions: this one waits for its end"
        with scheduling.one_pass(loaded, on_wait=lambda: _say(waiting)):
            found = one.difference()
            outcome = one.reconcile(compares=found is None or not found.is_weaker, is_patient=False)
    for line in (*outcome.done, *(f"look at this: {alert}" for alert in outcome.alerts), f"rests: {outcome.resting}"):
        _say(line)
    if found is not None and outcome.is_held_back:
        raise SettingsError(
            f"no versions of {one.hands.name} were compared: {found.sentence}; or give --without-test-set, if "
            f"{one.rule.score_metric} shall decide in this one pass"
        )
    _warn(found)
    if outcome.is_error:
        raise typer.Exit(1)


def promote(number: Number, why: Why = "a person's choice", config: Config = None) -> None:
    """Point the alias at a version by hand; the promoter leaves it there until `relay release`."""
    from pipeline.promotion import moves, wiring

    with _hands(config) as hands:
        _say(moves.promote(hands, number, why=why, now=wiring.clock()))


def rollback(
    to: Annotated[int | None, typer.Option("--to", min=1, help="The version to go back to.")] = None,
    why: Why = "a person's choice",
    config: Config = None,
) -> None:
    """Point the alias at what served well before, and hold it there; twice is two steps back."""
    from pipeline.promotion import moves, wiring

    with _hands(config) as hands:
        _say(moves.roll_back(hands, why=why, now=wiring.clock(), to=to))


def hold(why: Why = "a person's wish", config: Config = None) -> None:
    """Stop all automatic moves."""
    from pipeline.promotion import moves, wiring

    with _hands(config) as hands:
        _say(moves.hold(hands, why=why, now=wiring.clock()))


def release(why: Why = "a person's wish", config: Config = None) -> None:
    """End a hold or a freeze."""
    from pipeline.promotion import moves, wiring

    with _hands(config) as hands:
        _say(moves.release(hands, why=why, now=wiring.clock()))


def freeze(why: Why = "a person's wish", config: Config = None) -> None:
    """Stop automatic promotions; going back from a version that a server refuses stays allowed."""
    from pipeline.promotion import moves, wiring

    with _hands(config) as hands:
        _say(moves.freeze(hands, why=why, now=wiring.clock()))


def quarantine(number: Number, why: Why = "a person's wish", config: Config = None) -> None:
    """Bar a version, and all with the same files, from coming into production by themselves."""
    from pipeline.promotion import moves, wiring

    with _hands(config) as hands:
        _say(moves.quarantine(hands, number, why=why, now=wiring.clock()))


def unquarantine(number: Number, why: Why = "a person's wish", config: Config = None) -> None:
    """Lift a quarantine; the version is judged again."""
    from pipeline.promotion import second_chances, wiring

    with _hands(config) as hands:
        _say(second_chances.unquarantine(hands, number, why=why, now=wiring.clock()))


def rejudge(
    numbers: Annotated[list[int], typer.Argument(min=1, help="Numbers of versions.")],
    why: Why = "a person's wish",
    config: Config = None,
) -> None:
    """Let the promoter judge versions again, after a test set was mended say."""
    from pipeline.promotion import second_chances, wiring

    with _hands(config) as hands:
        _say(second_chances.rejudge(hands, numbers, why=why, now=wiring.clock()))


def forget(
    server: Annotated[str, typer.Argument(help="Name of the server, as `relay status` shows it.")],
    why: Why = "a person's wish",
    config: Config = None,
) -> None:
    """Forget a server that is gone for good."""
    from pipeline.promotion import second_chances, wiring

    with _hands(config) as hands:
        _say(second_chances.forget(hands, server, why=why, now=wiring.clock()))


def history(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 20,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Who moved the alias, when and why, and what was decided without a move."""
    from pipeline.promotion import reading

    with _hands(config) as hands:
        _say(reading.history_json(hands, limit=limit)) if as_json else reading.show(reading.history(hands, limit=limit))


def why(number: Number, as_json: Json = False, config: Config = None) -> None:
    """Say why a version is, or is not, in production."""
    from pipeline.promotion import reading

    with _hands(config) as hands:
        _say(reading.why_json(hands, number)) if as_json else reading.show(reading.why(hands, number))


def evaluate(
    versions: Annotated[list[str], typer.Argument(help="Numbers or aliases.")],
    config: Config = None,
    test_set: TestSet = None,
) -> None:
    """Score versions on the test set, by the engine that would serve them."""
    from pipeline.evaluation import evaluate_command
    from pipeline.evaluation.conduct import conduct_of
    from registry_hooks import events

    events.configure("ERROR")
    loaded = _load(config, test_set)
    if loaded.evaluate.test_set is None:
        raise SettingsError("no test set, so nothing was scored: give --test-set FILE, or set evaluate.test_set")
    conduct = conduct_of(loaded)
    code = evaluate_command.run(versions, settings=loaded, test_set=loaded.evaluate.test_set, conduct=conduct)
    raise typer.Exit(code)


def rank(config: Config = None) -> None:
    """The versions by score, with 95 % intervals."""
    from pipeline.evaluation import rank_command
    from registry_hooks import events

    events.configure("ERROR")
    raise typer.Exit(rank_command.run(settings=_load(config)))


@contextmanager
def _hands(config: Path | None) -> Iterator[Hands]:
    from pipeline.promotion import wiring
    from registry_hooks import events

    events.configure("ERROR")
    with wiring.hands_of(_load(config)) as hands:
        yield hands


def _warn(found: Difference | None) -> None:
    if found is not None:
        print(f"Warning: {found.sentence}", file=sys.stderr, flush=True)  # noqa: T201 - as `_say`


def _load(config: Path | None, test_set: Path | None = None) -> Settings:
    return settings.load(config, overrides={"evaluate": {"test_set": test_set}})


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the command line is the door for messages
