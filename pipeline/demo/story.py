"""The demo, in order: train, publish, move the alias, watch the server follow, all while clients stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline import trainer_state
from pipeline.demo import gateway_view, narrator, programs, tasks, traffic, verdict
from pipeline.demo.narrator import Narrator
from pipeline.demo.person import Person
from pipeline.demo.programs import Workplace
from pipeline.demo.timeline import Passage, Reload
from pipeline.demo.traffic import Asker
from pipeline.demo.verdict import Answers, Usage
from pipeline.stack import ports
from pipeline.stack.child import Child
from pipeline.stack.local import LocalStack, answers, local_stack, running
from pipeline.stack.up import server_program
from registry_hooks.errors import NotACheckpointError, StackError
from registry_hooks.settings import Settings

SERVER_START_TIMEOUT_S = 60.0
CHECKPOINT_TIMEOUT_S = 300.0
FOLLOW_TIMEOUT_S = 90.0
TRAINING_END_TIMEOUT_S = 60.0
NUM_LAST_STREAMS = 20  # that the last version answers before the clients stop
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What runs while the demo does."""

    settings: Settings
    place: Workplace
    stack: LocalStack
    server: Child
    url: str
    person: Person
    tell: Narrator


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the demo showed."""

    passages: tuple[Passage, ...]
    first: Answers
    last: Answers
    usage: Usage
    faults: Sequence[str]

    @property
    def versions(self) -> list[int]:
        return [one.version for one in self.passages]

    @property
    def shortcomings(self) -> list[str]:
        """What is missing; empty when everything was shown."""
        return verdict.shortcomings(
            self.usage, versions=self.versions, questions=tasks.questions(), first=self.first, last=self.last
        )


@contextmanager
def scene(settings: Settings, run_dir: Path, tell: Narrator) -> Iterator[Scene]:
    """MLflow, S3 and the server, ready inside and gone afterwards.

    Raises:
        PortInUseError: Somebody listens on a port that was asked for.
        StackError: A program did not become ready.
    """
    port = ports.take(settings.serve.port, host=settings.serve.host, setting="serve.port")
    url = f"http://{settings.serve.host}:{port}"
    with local_stack(settings) as stack:
        tell.say(f"MLflow {stack.tracking_uri} and S3 {stack.s3_endpoint_url} are up; S3 server: {stack.s3_kind}")
        program = server_program(settings, stack, port)
        place = Workplace(run_dir=run_dir, env=program.env)
        with running(program, run_dir) as server:
            server.wait_until(answers(f"{url}/health"), timeout_s=SERVER_START_TIMEOUT_S)
            tell.say(f"the server is up at {url}; there is nothing to serve yet")
            person = Person(stack.tracking_uri, settings.registry.name)
            yield Scene(settings=settings, place=place, stack=stack, server=server, url=url, person=person, tell=tell)


def play(on: Scene, save_at: Sequence[int]) -> Outcome:
    """Train, and bring the checkpoint of each step in `save_at` into service while clients stream.

    Raises:
        RelayError: A step did not come to its end; the message says which, and why.
    """
    run_id = on.person.begin_training(on.settings.registry.experiment, "demo-training")
    program = programs.training(on.place, save_at=save_at, run_id=run_id)
    with running(program, on.place.run_dir) as training:
        on.tell.say(f"training {max(save_at)} steps; checkpoints at {', '.join(map(str, save_at))}")
        passages = [_bring_into_service(on, training, step=save_at[0], run_id=run_id)]
        first = _answers(on, passages[0].version)
        with traffic.running(lambda: _asker(on)) as tally:
            on.tell.say(f"{traffic.NUM_CLIENTS} clients stream from now on, without retries")
            passages += [_bring_into_service(on, training, step=step, run_id=run_id) for step in save_at[1:]]
            last = _answers(on, passages[-1].version)
            _wait(lambda: tally.num_whole[last.version] >= NUM_LAST_STREAMS, FOLLOW_TIMEOUT_S)
        _wait(lambda: not training.alive, TRAINING_END_TIMEOUT_S)
    return Outcome(passages=tuple(passages), first=first, last=last, usage=tally.usage, faults=tuple(tally.faults))


def _bring_into_service(on: Scene, training: Child, *, step: int, run_id: str) -> Passage:
    folder = on.place.checkpoints / f"checkpoint-{step}"
    saved_at = _wait_until_saved(folder, training)
    on.tell.say(f"{folder.name} saved: {narrator.metrics_line(trainer_state.read(folder).metrics)}")
    programs.publish(on.place, folder, run_id=run_id)
    published_at = datetime.now(UTC)
    name, alias, version = on.settings.registry.name, on.settings.registry.alias, on.person.version_of(step)
    on.tell.say(
        f"published as {name} version {version}, {(published_at - saved_at).total_seconds():.1f} s after the save"
    )
    moved_at = on.person.move(alias, version)
    on.tell.say(f"{alias} moved to version {version} by MlflowClient")
    reload = _wait_until_served(on, version)
    passage = Passage(
        version=version, step=step, saved_at=saved_at, published_at=published_at, moved_at=moved_at, reload=reload
    )
    on.tell.say(f"version {version} is served, {passage.moved_to_served_s:.1f} s after the move")
    return passage


def _wait_until_saved(folder: Path, training: Child) -> datetime:
    """When the Trainer had written the checkpoint whole: its state comes last.

    Raises:
        StackError: The training ended before, or takes too long.
    """

    def is_saved() -> bool:
        try:
            return trainer_state.read(folder).step is not None
        except NotACheckpointError:  # half-written
            return False

    if not _wait(lambda: is_saved() or not training.alive, CHECKPOINT_TIMEOUT_S) or not is_saved():
        raise StackError(f"training did not save {folder}; its log {training.log} ends with:\n{training.log_tail()}")
    return datetime.fromtimestamp((folder / trainer_state.STATE_FILE).stat().st_mtime, UTC)


def _wait_until_served(on: Scene, version: int) -> Reload:
    """How the server came to serve `version`.

    Raises:
        StackError: It refused, ended, or did not follow in time.
    """
    deadline = time.monotonic() + FOLLOW_TIMEOUT_S
    reason = "it does not answer"
    while on.server.alive and time.monotonic() < deadline:
        state = gateway_view.server_state(on.url)
        if state is not None:
            reload, reason = gateway_view.reload_of(state, version), state.reason
            if reload is not None:
                return reload
            if gateway_view.is_refused(state, version):
                break
        time.sleep(_LOOK_S)
    raise StackError(
        f"the server does not serve version {version}: {reason}; its log {on.server.log} ends with:\n"
        f"{on.server.log_tail()}"
    )


def _answers(on: Scene, version: int) -> Answers:
    """What the version in service says to the demo's questions.

    Raises:
        StackError: It gave no whole answer.
    """
    with closing(_asker(on)) as asker:
        records = [asker.ask(one.prompt) for one in tasks.questions()]
    for record in records:
        if record.fault or record.version != version:
            raise StackError(f"a question to version {version} failed: {record.fault or f'{record.version} answered'}")
    return Answers(version=version, texts=tuple(record.text for record in records))


def _asker(on: Scene) -> Asker:
    key = on.settings.serve.api_key
    return Asker(on.url, on.settings.registry.name, api_key=key.get_secret_value() if key else None)


def _wait(ready: Callable[[], bool], timeout_s: float) -> bool:
    """Whether `ready()` came true in time."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_S)
    return True
