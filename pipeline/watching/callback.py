"""`RelayCallback`: give it to the HF Trainer, and every checkpoint that it saves becomes a model version.

    trainer = Trainer(..., callbacks=[RelayCallback()])

Saving takes some milliseconds longer, for hard links; all else happens in a background thread.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from pipeline import code_state
from pipeline.adapter import check_base
from pipeline.code_state import CodeState
from pipeline.watching.entries import Provenance
from pipeline.watching.parent_run import ParentRun
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
        merge: For trainings of a LoRA adapter: the folder of the model that it is trained on. Each save is merged into
            it, on the CPU and in the background, and the result is published.
        code_dir: Work tree of the training code; its commit is that at the begin of the training.
        pending_dir: Where checkpoints wait; None for `.relay-pending` in the Trainer's `output_dir`.
        max_pending: Of more, the oldest is dropped. Each may keep its disk space after the Trainer deleted it.

    Raises:
        SettingsError: The settings cannot be read.
        NotACheckpointError: `merge` is no base model.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        config: Path | None = None,
        parent_run_id: str | None = None,
        merge: Path | None = None,
        code_dir: Path | None = None,
        wait_s: float = 600.0,
        pending_dir: Path | None = None,
        max_pending: int = 8,
    ) -> None:
        self._settings = settings or all_settings.load(config)
        with connected(self._settings):
            pass  # what is wrong with an address is said now, not when the first checkpoint is saved
        self._base = Path(merge) if merge is not None else None
        if self._base is not None:
            check_base(self._base)
        self._parent_run_id = parent_run_id
        self._parent_run = ParentRun(self._settings.tracking_uri)
        self._code_dir = Path(code_dir) if code_dir is not None else Path()
        self._code: CodeState | None = None
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
                self._code = code_state.look(self._code_dir)
                if self._code.trouble:
                    events.logger().warning("commit.unknown", because=self._code.trouble)
                self._started(args)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stage the checkpoint that was just written."""
        if state.is_world_process_zero:
            with _harmless("staging"):
                queue, uploader = self._started(args)
                queue.stage(_saved_folder(args, state), self._provenance(args))
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

    def _provenance(self, args: TrainingArguments) -> Provenance:
        return Provenance(
            parent_run_id=self._parent_run_id or self._parent_run.find(),
            code_dir=self._code_dir,
            code=self._code,
            arguments=_arguments(args),
            base=self._base,
        )

    def _started(self, args: TrainingArguments) -> tuple[PendingQueue, Uploader]:
        if self._queue is None:
            folder = self._pending_dir or Path(args.output_dir) / DEFAULT_NAME
            self._queue = PendingQueue(folder, max_pending=self._max_pending, target=target_of(self._settings))
        if self._uploader is None:
            self._uploader = Uploader(self._queue, self._until_the_end.enter_context(connected(self._settings)))
            self._uploader.start()
        return self._queue, self._uploader


def _saved_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """The folder of the save just made: in `output_dir`, or one below for a trial of a hyper-parameter search."""
    name, output_dir = f"checkpoint-{state.global_step}", Path(args.output_dir)
    found = [path for path in (output_dir / name, *output_dir.glob(f"*/{name}")) if path.is_dir()]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=output_dir / name)


def _arguments(args: TrainingArguments) -> dict[str, Any] | None:
    """The training's arguments, without its tokens; None where they cannot be told, which costs no checkpoint."""
    try:
        document = json.loads(args.to_json_string())
    except Exception as error:  # noqa: BLE001 - people subclass it with whatever they like
        events.logger().warning("arguments.unknown", because=repr(error))
        return None
    return document if isinstance(document, dict) else None


@contextmanager
def _harmless(doing: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - no checkpoint is worth a training
        events.logger().error("callback.failed", doing=doing, because=str(error) or repr(error))
