"""`relay watch runs`: many trainings, and trials of a search, whose folders have the same names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline.watching import watch
from pipeline.watching.callback import RelayCallback
from pipeline.watching.pending import PendingQueue
from pipeline.watching.watch import FolderWatch, WatchOptions
from registry_hooks.errors import UserError
from registry_hooks.settings import RegistrySettings, Settings, StoreSettings
from tests.watching.memory_world import Save

NOWHERE = "http://127.0.0.1:9"
SETTINGS = Settings(registry=RegistrySettings(tracking_uri=NOWHERE), store=StoreSettings(endpoint_url=NOWHERE))
OPTIONS = WatchOptions(settle_s=0.0)


def moved(folder: Path, *parts: str) -> Path:
    target = folder.parent.joinpath(*parts, folder.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    return folder.rename(target)


def origins(queue: PendingQueue) -> list[str]:
    return [entry.paper.origin.relative_to(queue.folder.parent).as_posix() for entry in queue.entries()]


def test_every_training_in_the_folder_is_found(training: Path, save: Save) -> None:
    for parts in (("exp1",), ("exp2",), ("search", "run-0"), ("a", "b", "too-deep"), (".hidden",)):
        moved(save(20), *parts)
    save(40)
    queue = PendingQueue(training / ".relay-pending")
    watching = FolderWatch(training, queue, OPTIONS)
    with capture_logs() as events:
        left = watching.look(0.0)

    assert left == {}
    assert sorted(origins(queue)) == [
        "checkpoint-40",
        "exp1/checkpoint-20",
        "exp2/checkpoint-20",
        "search/run-0/checkpoint-20",
    ]
    assert {e["checkpoint"] for e in events} >= {"exp1/checkpoint-20", "exp2/checkpoint-20"}


def test_saves_of_one_name_in_two_trainings_are_each_taken_once(training: Path, save: Save) -> None:
    for parts in (("exp1",), ("exp2",)):
        moved(save(20), *parts)
    queue = PendingQueue(training / ".relay-pending")
    watching = FolderWatch(training, queue, OPTIONS)
    watching.look(0.0)
    for entry in queue.entries():
        queue.done(entry)
    again = FolderWatch(training, PendingQueue(queue.folder), OPTIONS)
    reasons = [one.look(now_s) for one in (watching, again) for now_s in (1.0, 2.0)]

    assert reasons == [{}] * 4
    assert queue.entries() == []


def test_a_save_that_an_earlier_relay_took_is_not_taken_again(training: Path, save: Save) -> None:
    folder = save(20)
    queue = PendingQueue(training / ".relay-pending")
    queue.stage(folder)
    queue.done(queue.entries()[0])
    noted = queue.folder / ".seen.json"
    noted.write_text(noted.read_text().replace(str(folder.resolve()), folder.name))

    assert queue.has_seen(folder)


def test_a_queue_inside_the_folder_is_no_training(training: Path, save: Save) -> None:
    save(20)
    queue = PendingQueue(training / "pending")
    watching = FolderWatch(training, queue, OPTIONS)
    watching.look(0.0)

    assert watching.look(1.0) == {}


def test_nothing_to_publish_once_says_where_it_looked(training: Path) -> None:
    (training / "exp1").mkdir()

    with pytest.raises(UserError, match="nor do the folders in it"):
        watch.run(training, settings=SETTINGS, options=WatchOptions(once=True))


@pytest.mark.parametrize("parts", [(), ("run-0",)])
def test_a_trial_of_a_search_is_published_from_its_own_folder(
    training: Path, save: Save, parts: tuple[str, ...]
) -> None:
    callback = RelayCallback(SETTINGS, wait_s=0)
    state: Any = SimpleNamespace(global_step=20, is_world_process_zero=True)
    args: Any = SimpleNamespace(output_dir=str(training))
    moved(save(20), *parts)
    callback.on_save(args, state, SimpleNamespace())
    callback.on_train_end(args, state, SimpleNamespace())

    assert origins(PendingQueue(training / ".relay-pending")) == ["/".join((*parts, "checkpoint-20"))]
