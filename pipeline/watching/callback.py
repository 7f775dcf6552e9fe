"""`RelayCallback`: give it to the HF Trainer, and every checkpoint that it saves becomes a model version.

    trainer = Trainer(..., callbacks=[RelayCallback()])

Saving takes some milliseconds longer, for hard links; all else happens in a background thread.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from pipeline.watching.pending import DEFAULT_NAME, PendingQueue
from pipeline.watching.publisher import connected, target_of
from pipeline.watching.uploading import Uploader
from registry_hooks import events
from registry_hooks import settings as all_settings
from registry_hooks.settings import Settings


class RelayCallback(TrainerCallback):  # type: ignore[misc]  # transformers is Any to mypy
    """Publishes in the background what the Trainer saves; never raises into a training, and never makes it wait.

    Args:
        settings: None reads them as `relay` does, with `config` as its `--config`.
        parent_run_id: The training run. None takes the run that MLflow's own callback logs to, where that goes to the
            same MLflow server; without one, a run is made.
        wait_s: How long the end of the training may wait for uploads. What is left then stays on disk, and the next
            process that uses the folder publishes it.
        pending_dir: Where checkpoints wait; None for `.relay-pending` in the Trainer's `output_dir`.
        max_pending: Of more, the oldest is dropped. Each may keep its disk space after the Trainer deleted it.

    Raises:
        SettingsError: The settings cannot be read.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        config: Path | None = None,
        parent_run_id: str | None = None,
        wait_s: float = 600.0,
        pending_dir: Path | None = None,
        max_pending: int = 8,
    ) -> None:
        self._settings = settings or all_settings.load(config)
        with connected(self._settings):
            pass  # what is wrong with an address is said now, not when the first checkpoint is saved
        self._parent_run_id = parent_run_id
        self._wait_s = wait_s
        self._pending_dir = pending_dir
        self._max_pending = max_pending
        self._queue: PendingQueue | None = None
        self._uploader: Uploader | None = None
        self._until_the_end = ExitStack()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin to publish, first of all what an earlier process left."""
        if state.is_world_process_zero:
            with _harmless("starting"):
                self._started(args)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stage the checkpoint that was just written."""
        if state.is_world_process_zero:
            with _harmless("staging"):
                queue, uploader = self._started(args)
                folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                queue.stage(folder, parent_run_id=self._parent_run_id or _run_of_mlflow(self._settings.tracking_uri))
                uploader.notify()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Wait, within bounds, for what is still under way."""
        with _harmless("ending"), self._until_the_end:
            uploader, self._uploader = self._uploader, None
            if uploader is None or self._queue is None:
                return
            left = uploader.close(self._wait_s)
            if left:
                names = [entry.paper.name for entry in left]
                hint = "the next training or `relay watch` publishes them"
                events.logger().warning("checkpoints.left", left=names, kept_in=str(self._queue.folder), hint=hint)

    def _started(self, args: TrainingArguments) -> tuple[PendingQueue, Uploader]:
        if self._queue is None:
            folder = self._pending_dir or Path(args.output_dir) / DEFAULT_NAME
            self._queue = PendingQueue(folder, max_pending=self._max_pending, target=target_of(self._settings))
        if self._uploader is None:
            self._uploader = Uploader(self._queue, self._until_the_end.enter_context(connected(self._settings)))
            self._uploader.start()
        return self._queue, self._uploader


def _run_of_mlflow(tracking_uri: str) -> str | None:
    """The run that this thread logs to, if MLflow is in use and its server is ours."""
    mlflow = sys.modules.get("mlflow")  # whoever logs to it has imported it; nobody else should pay for the import
    run = mlflow.active_run() if mlflow is not None else None
    if mlflow is None or run is None:
        return None
    if mlflow.get_tracking_uri().rstrip("/") != tracking_uri.rstrip("/"):
        return None  # our registry does not know that run, and would refuse the checkpoint for it
    return str(run.info.run_id)


@contextmanager
def _harmless(doing: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - no checkpoint is worth a training
        events.logger().error("callback.failed", doing=doing, because=str(error) or repr(error))
