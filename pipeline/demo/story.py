"""The demo, in order: training publishes, the promoter judges, the server follows, all by themselves."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import trainer_state
from pipeline.demo import programs, tasks, traffic, verdict
from pipeline.demo.following import Follower
from pipeline.demo.narrator import Narrator
from pipeline.demo.person import Person
from pipeline.demo.programs import Workplace
from pipeline.demo.timeline import Passage
from pipeline.demo.traffic import Asker
from pipeline.demo.verdict import Answers, Decided, Usage
from pipeline.promotion import ledger, reading
from pipeline.promotion.acting import Hands
from pipeline.promotion.ledger import Entry
from pipeline.promotion.wiring import hands_of
from pipeline.stack import ports
from pipeline.stack.child import Child
from pipeline.stack.local import LocalStack, answers, local_stack, running
from pipeline.stack.up import promoter_program, server_program
from registry_hooks import contract
from registry_hooks.errors import StackError
from registry_hooks.settings import Settings

SERVER_START_TIMEOUT_S = 60.0
FIRST_TIMEOUT_S = 180.0
STEP_S = 240.0
NUM_LAST_STREAMS = 20  # that the last version answers before the person moves the alias back
NUM_PASSES_WATCHED = 3  # of the promoter, over what the person did
DIVERGED = "diverged"
_LOOK_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What runs while the demo does."""

    settings: Settings
    place: Workplace
    stack: LocalStack
    server: Child
    promoter: Child
    url: str
    person: Person
    hands: Hands
    tell: Narrator


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the demo showed."""

    passages: tuple[Passage, ...]
    entries: Sequence[Entry]
    first: Answers
    last: Answers
    usage: Usage
    decided: Decided
    faults: Sequence[str]
    num_wanted: int

    @property
    def versions(self) -> list[int]:
        """Those that were in service."""
        return [one.version for one in self.passages]

    @property
    def shortcomings(self) -> list[str]:
        """What is missing; empty when everything was shown."""
        return [
            *verdict.shortcomings(
                self.usage, versions=self.versions, questions=tasks.questions(), first=self.first, last=self.last
            ),
            *verdict.shortcomings_of_promotion(self.decided, num_wanted=self.num_wanted),
        ]


@contextmanager
def scene(settings: Settings, run_dir: Path, tell: Narrator) -> Iterator[Scene]:
    """MLflow, S3, the promoter and the server, ready inside and gone afterwards.

    Raises:
        PortInUseError: Somebody listens on a port that was asked for.
        StackError: A program did not become ready.
    """
    port = ports.take(settings.serve.port, host=settings.serve.host, setting="serve.port")
    url = f"http://{settings.serve.host}:{port}"
    _write_test_set(settings)
    with ExitStack() as up:
        stack = up.enter_context(local_stack(settings))
        tell.say(f"MLflow {stack.tracking_uri} and S3 {stack.s3_endpoint_url} are up; S3 server: {stack.s3_kind}")
        program = server_program(settings, stack, port)
        server = up.enter_context(running(program, run_dir))
        promoter = up.enter_context(running(promoter_program(settings, stack), run_dir))
        server.wait_until(answers(f"{url}/health"), timeout_s=SERVER_START_TIMEOUT_S)
        tell.say(f"the promoter is on, and the server is up at {url}; there is nothing to serve yet")
        own = settings.registry.model_copy(update={"tracking_uri": stack.tracking_uri})
        yield Scene(
            settings=settings,
            place=Workplace(run_dir=run_dir, env=program.env),
            stack=stack,
            server=server,
            promoter=promoter,
            url=url,
            person=Person(stack.tracking_uri, settings.registry.name),
            hands=up.enter_context(hands_of(settings.model_copy(update={"registry": own}))),
            tell=tell,
        )


def play(on: Scene, save_at: Sequence[int]) -> Outcome:
    """Train, and look on while every checkpoint is published, judged and, where it is better, served.

    Raises:
        RelayError: A step did not come to its end; the message says which, and why.
    """
    run_id = on.person.begin_training(on.settings.registry.experiment, "demo-training")
    program = programs.training(on.place, save_at=save_at, run_id=run_id)
    follower = Follower(on.person, on.hands, on.url, on.place.checkpoints, on.tell.say)
    with running(program, on.place.run_dir) as training:
        on.tell.say(f"training {max(save_at)} steps; checkpoints at {', '.join(map(str, save_at))}, nobody at the keys")
        _until(on, follower, lambda: bool(follower.passages), FIRST_TIMEOUT_S, "a first version in service", training)
        first = _answers(on, follower.passages[0].version)
        with traffic.running(lambda: _asker(on)) as tally:
            on.tell.say(f"{traffic.NUM_CLIENTS} clients stream from now on, without retries")
            _until(on, follower, lambda: follower.num_judged == len(save_at), STEP_S, "all verdicts", training)
            _until(on, follower, lambda: follower.is_settled, STEP_S, "the last version in service", training)
            best = follower.passages[-1].version
            last = _answers(on, best)
            _publish_diverged(on, max(save_at), run_id)
            _until(on, follower, lambda: follower.num_judged > len(save_at), STEP_S, "the last verdict", training)
            _until(on, follower, lambda: tally.num_whole[best] >= NUM_LAST_STREAMS, STEP_S, "streams", training)
            decided = _person_moves_back(on, follower, training)
    return Outcome(
        passages=tuple(follower.passages),
        entries=reading.entries_of(on.hands, 100),
        first=first,
        last=last,
        usage=tally.usage,
        decided=decided,
        faults=tuple(tally.faults),
        num_wanted=len(save_at) + 1,
    )


def whys(on: Scene, outcome: Outcome) -> Iterator[tuple[int, str]]:
    """A promoted, a kept and a rejected version, with the word for each."""
    versions = on.person.versions()
    promoted = {entry.target for entry in outcome.entries if entry.kind == ledger.PROMOTE}
    yield max(number for number in promoted if number is not None), "promoted"
    kept = [n for n, one in versions.items() if n not in promoted and one.state == contract.STATE_ADMITTED]
    yield from ((number, "kept out") for number in sorted(kept)[:1])
    rejected = [number for number, one in versions.items() if one.state == contract.STATE_REJECTED]
    yield from ((number, "rejected") for number in sorted(rejected)[:1])


def _person_moves_back(on: Scene, follower: Follower, training: Child) -> Decided:
    """The one thing that a person does here; what the promoter makes of it."""
    oldest, alias = follower.passages[0].version, on.settings.registry.alias
    on.person.move(alias, oldest)
    on.tell.say(f"a person moves {alias} back to version {oldest}, by MlflowClient")
    _until(on, follower, lambda: follower.served == oldest, STEP_S, f"version {oldest} in service", training)
    on.tell.say(f"version {oldest} is served again")
    _until(on, follower, lambda: on.person.hold() is not None, STEP_S, "the hold", training)
    time.sleep(NUM_PASSES_WATCHED * on.settings.promoter.interval_s)
    held, stayed = on.person.hold(), on.person.production(alias)
    on.tell.say(f"the promoter passed by and left it there: {_told(held)}")
    entries, versions = reading.entries_of(on.hands, 100), on.person.versions()
    return Decided(
        kinds=[entry.kind for entry in reversed(entries)],
        num_versions=len(versions),
        unjudged=[number for number, one in versions.items() if not one.is_judged],
        moved_to=oldest,
        stayed_at=stayed,
        is_held=held is not None,
    )


def _publish_diverged(on: Scene, step: int, run_id: str) -> None:
    """Publish a copy of the last checkpoint whose training log says NaN, as of a training that went wrong."""
    folder = on.place.run_dir / DIVERGED / f"checkpoint-{step}"
    shutil.copytree(on.place.checkpoints / f"checkpoint-{step}", folder)
    state = json.loads((folder / trainer_state.STATE_FILE).read_text(encoding="utf-8"))
    state["log_history"][-1]["eval_loss"] = float("nan")
    (folder / trainer_state.STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
    programs.publish(on.place, folder, run_id=run_id)
    on.tell.say("a copy whose training log says eval_loss = NaN was published by hand")


def _write_test_set(settings: Settings) -> None:
    """The demo's fixed questions as the promoter's test set."""
    path = settings.evaluate.test_set
    assert path is not None  # noqa: S101 - the demo sets it
    lines = [
        {
            "id": f"{one.slice}-{place}",
            "slice": one.slice,
            "messages": [{"role": "user", "content": one.prompt}],
            "answer": one.answer,
        }
        for place, one in enumerate(tasks.held_out())
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _answers(on: Scene, version: int) -> Answers:
    """What the version in service says to the demo's questions.

    Raises:
        StackError: It gave no whole answer.
    """
    with closing(_asker(on)) as asker:
        records = [asker.ask(one.prompt) for one in tasks.questions()]
    for record in records:
        if record.fault:
            raise StackError(f"a question to version {version} failed: {record.fault}")
    return Answers(version=version, texts=tuple(record.text for record in records))


def _asker(on: Scene) -> Asker:
    key = on.settings.serve.api_key
    return Asker(on.url, on.settings.registry.name, api_key=key.get_secret_value() if key else None)


def _until(
    on: Scene, follower: Follower, ready: Callable[[], bool], timeout_s: float, what: str, *children: Child
) -> None:
    """Look on until `ready()`.

    Raises:
        StackError: The time ran out, or a program ended that is needed.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        follower.look()
        if ready():
            return
        dead = next((one for one in (on.server, on.promoter) if not one.alive), None)
        failed = next((one for one in children if not one.alive and one.exit_code), None)
        if dead or failed or time.monotonic() > deadline:
            who = dead or failed or on.promoter
            raise StackError(
                f"{what}: not within {timeout_s:g} s; {follower.reason}; the log of {who.name}, {who.log}, ends with:\n"
                f"{who.log_tail()}"
            )
        time.sleep(_LOOK_S)


def _told(hold: str | None) -> str:
    try:
        return str(json.loads(hold or "{}").get("why", "nothing is held"))
    except ValueError:
        return hold or ""
