"""The files of one checkpoint on their way to their place in the store, while an engine records golden answers."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.checkpoint import Checkpoint
from pipeline.recording import GoldenRecorder
from pipeline.stages import Stopwatch
from registry_hooks import contract
from registry_hooks.errors import StoreError
from registry_hooks.golden import GoldenSet
from registry_hooks.manifest import FileEntry, Manifest
from registry_hooks.ports import ObjectWriter, Progress
from registry_hooks.records import DraftPlace

# Files at a time; each goes in parallel parts of its own.
_PARALLEL_FILES = 2


class _StoppedError(Exception):
    """Something else failed, so that this need not go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipment:
    """One checkpoint, its manifest and its place."""

    checkpoint: Checkpoint
    manifest: Manifest
    place: DraftPlace
    writer: ObjectWriter
    watch: Stopwatch

    def send(self, recorder: GoldenRecorder, *, links: Path) -> GoldenSet:
        """Upload everything that the manifest names, and record golden answers meanwhile. The first failure stops both.

        Args:
            links: A folder to be made, for an engine that sees exactly the files that are published.

        Raises:
            CorruptFileError: A file changed since it was hashed.
            NotACheckpointError: The chat template fails.
            EngineError: The engine refused the files.
            RelayError: The store failed.
        """
        stopped = threading.Event()
        with ThreadPoolExecutor(2, thread_name_prefix="publish") as pool:
            golden = pool.submit(self._record, recorder, links)
            uploads = pool.submit(self._upload_all, stopped)
            try:
                _join([uploads, golden])
            except BaseException:
                stopped.set()
                recorder.stop()
                raise
        return golden.result()

    def send_papers(self, papers: Mapping[str, bytes]) -> None:
        """Write the small files that describe the others, and look whether all is there.

        Raises:
            StoreError: Something is not there, or has another size.
        """
        for path, data in papers.items():
            self.writer.write(f"{self.place.artifact_uri}/{path}", data)
        wanted = {entry.path: entry.size_bytes for entry in (*self.manifest.files, *self._tokenizer_copies())}
        wanted |= {path: len(data) for path, data in papers.items()}
        present = {item.key: item.size_bytes for item in self.writer.list_objects(self.place.artifact_uri)}
        wrong = sorted(path for path, size in wanted.items() if present.get(path) != size)
        if wrong:
            raise StoreError(
                f"{self.place.artifact_uri}/{wrong[0]} is not whole in the store after it was written; no version was "
                "made: publish again"
            )

    def _record(self, recorder: GoldenRecorder, links: Path) -> GoldenSet:
        with self.watch.stage("golden"):
            links.mkdir()
            for name in self.checkpoint.files:
                (links / name).symlink_to((self.checkpoint.folder / name).resolve())
            return recorder.record(links)

    def _upload_all(self, stopped: threading.Event) -> None:
        entries = [*self.manifest.files, *self._tokenizer_copies()]
        total_bytes = sum(entry.size_bytes for entry in entries)
        with (
            ThreadPoolExecutor(_PARALLEL_FILES, thread_name_prefix="upload") as pool,
            self.watch.stage("upload", total_bytes) as advance,
        ):

            def advance_or_stop(num_bytes: int) -> None:
                if stopped.is_set():
                    raise _StoppedError
                advance(num_bytes)

            uploads = [pool.submit(self._upload, entry, advance_or_stop) for entry in entries]
            try:
                _join(uploads)
            except BaseException:
                stopped.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _upload(self, entry: FileEntry, progress: Progress) -> None:
        path = self.checkpoint.folder / PurePosixPath(entry.path).name
        self.writer.upload(path, entry, f"{self.place.artifact_uri}/{entry.path}", progress)

    def _tokenizer_copies(self) -> list[FileEntry]:
        """MLflow's transformers loader wants the tokenizer in a folder of its own, too."""
        return [
            replace(entry, path=f"{contract.TOKENIZER_DIR}/{PurePosixPath(entry.path).name}")
            for entry in self.manifest.files
            if PurePosixPath(entry.path).name in contract.TOKENIZER_FILES
        ]


def _join(futures: Sequence[Future[Any]]) -> None:
    """Wait for all, or raise the first failure at once."""
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()
