"""Is a checkpoint folder finished? A look reads names, sizes, times and headers; the decision is pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.trainer_state import STATE_FILE
from pipeline.watching import stageable
from registry_hooks.errors import UserError

# What the HF Trainer writes before its state, which it writes last.
_MARKS_OF_THE_TRAINER = ("training_args.bin", "scheduler.pt", "rng_state.pth", "rng_state_0.pth")
# The name under which some trainers write a checkpoint that they rename when it is finished.
_UNFINISHED_PREFIX = "tmp-"
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What one look at a folder found.

    Attributes:
        files: Size and mtime of everything in it, so that two equal sights have no write between them.
        lacking: What it lacks for being a checkpoint that can be published; empty when nothing.
    """

    files: frozenset[tuple[str, int, int]]
    lacking: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """It is whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """It is not, or may not be.

    Attributes:
        is_stuck: Nothing was written any more for as long as a whole one takes to be believed.
    """

    because: str
    is_stuck: bool = False


def decide(sight: Sight, *, unchanged_s: float, settle_s: float) -> Take | Wait:
    """Say whether a folder is finished.

    Args:
        unchanged_s: For how long all looks have found this very sight.
        settle_s: How long a folder must stay as it is, since a writer may pause between two files.
    """
    is_settled = unchanged_s >= settle_s
    if sight.lacking:
        return Wait(because=sight.lacking, is_stuck=is_settled)
    if not is_settled:
        return Wait(because=f"it changed within the last {settle_s:g} s")
    return Take()


def look(folder: Path, *, base: Path | None = None) -> Sight:
    """Look at a folder that somebody may be writing, or deleting.

    Args:
        base: The model that adapters are merged into.
    """
    return Sight(files=_files(folder), lacking=_lacking(folder, base))


def step_order(folder: Path) -> tuple[int, str]:
    """Sorts checkpoint folders by the step in their names; those without one come last."""
    named = _NAME.fullmatch(folder.name)
    return (int(named[1]), folder.name) if named else (2**63, folder.name)


def _files(folder: Path) -> frozenset[tuple[str, int, int]]:
    found = set()
    try:
        for path in folder.iterdir():
            facts = path.stat()
            found.add((path.name, facts.st_size, facts.st_mtime_ns))
    except OSError:
        return frozenset()
    return frozenset(found)


def _lacking(folder: Path, base: Path | None) -> str:
    unfinished = folder.with_name(_UNFINISHED_PREFIX + folder.name)
    if unfinished.exists():
        return f"{unfinished.name} is still there: the trainer writes it"
    is_of_the_trainer = any((folder / mark).exists() for mark in _MARKS_OF_THE_TRAINER)
    if is_of_the_trainer and not (folder / STATE_FILE).is_file():
        return f"{folder} has no {STATE_FILE} yet, which the HF Trainer writes last"
    try:
        stageable.inspect(folder, base=base)
    except UserError as error:
        return str(error)
    except OSError as error:  # deleted while it was read
        return f"{folder} cannot be read ({error.strerror})"
    return ""
