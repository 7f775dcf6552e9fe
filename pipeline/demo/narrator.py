"""What the demo tells people: one line per step as it happens, and two tables at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.demo import tasks
from pipeline.demo.tasks import Example
from pipeline.demo.timeline import MILESTONES, Passage
from pipeline.demo.verdict import Answers, Usage
from pipeline.promotion.ledger import Entry

# What this replaces: rsync, status files and five daemons.
OLD_SETUP = "up to 15 minutes, 12 s of it copying and reloading"


class Narrator:
    """Prints to people; its clock starts when it is made."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._start

    def say(self, line: str) -> None:
        """One step, with the seconds since the start."""
        self._console.print(f"[dim]{self.elapsed_s:6.1f} s[/dim]  {escape(line)}")

    def show_timeline(self, passages: Sequence[Passage]) -> None:
        """Seconds from each milestone to the next, one row per version."""
        title = f"From saved to served: seconds since the milestone before. The old setup: {OLD_SETUP}"
        table = Table(title=title, title_justify="left")
        table.add_column("version", justify="right")
        table.add_column("step", justify="right")
        for milestone in MILESTONES[1:]:
            table.add_column(milestone, justify="right")
        table.add_column("alias moved → served", justify="right", style="bold")
        table.add_column("saved → served", justify="right")
        for one in passages:
            seconds = [f"{value:.2f}" for value in (*one.seconds, one.moved_to_served_s, one.saved_to_served_s)]
            table.add_row(str(one.version), str(one.step), *seconds)
        self._print(table)

    def show_answers(self, questions: Sequence[Example], first: Answers, last: Answers) -> None:
        """The same questions, answered by two versions."""
        table = Table(title="The same four questions", title_justify="left")
        table.add_column("question")
        table.add_column("right answer")
        for answers in (first, last):
            num_right = answers.num_right(questions)
            table.add_column(f"version {answers.version}: {num_right} of {len(questions)} right")
        for place, one in enumerate(questions):
            row = [_marked(answers.texts[place], one.answer) for answers in (first, last)]
            table.add_row(one.prompt, one.answer, *row)
        self._print(table)

    def show_verdicts(self, entries: Sequence[Entry]) -> None:
        """What was decided, by whom, and why."""
        table = Table("decision", "from", "to", "by", "why", title="Decisions, oldest first", title_justify="left")
        for entry in reversed(entries):
            moved = (str(entry.previous or "-"), str(entry.target or "-"))
            table.add_row(entry.kind, *moved, escape(entry.by), escape(entry.because))
        self._print(table)

    def show_usage(self, usage: Usage) -> None:
        """What the clients saw."""
        per_version = ", ".join(f"{count} from version {one}" for one, count in sorted(usage.num_whole.items()))
        self._console.print(
            f"requests sent: {usage.num_sent}, failed: {usage.num_failed}; whole streams of one version: {per_version}"
        )

    def _print(self, table: Table) -> None:
        self._console.print()
        self._console.print(table)


def metrics_line(metrics: Mapping[str, float]) -> str:
    """The exact match of a checkpoint, overall and per slice, for people."""
    slices = ", ".join(f"{name} {metrics.get(f'eval_exact_match_{name}', 0.0):.0%}" for name in tasks.SLICES)
    return f"exact match {metrics.get('eval_exact_match', 0.0):.0%} ({slices})"


def _marked(text: str, right: str) -> str:
    colour, mark = ("green", "✓") if text.strip() == right else ("red", "✗")
    return f"[{colour}]{mark} {escape(text.strip() or '(nothing)')}[/{colour}]"
