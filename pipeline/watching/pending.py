"""A bounded queue on disk of checkpoints that wait to be published; it outlives processes, and the trainer's folders.

A save is staged by hard links: no byte is copied, and the trainer may delete its folder at any time afterwards. What is
in the queue is whole: an entry is built under a hidden name and renamed, and goes by being renamed. A hidden name that
is found while nobody builds is what a killed process left, and is removed.

Staging flushes nothing to the disk: right behind gigabytes of fresh weights that would hold the trainer up for a second
and more (measured). Whoever publishes does it (`secure`); what a power cut spoils before, papers and stamps give away.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline import code_state
from pipeline.watching import entries as papers
from pipeline.watching import stageable
from pipeline.watching.entries import Entry, Paper, Provenance
from pipeline.watching.seen import SeenSaves
from registry_hooks import durable, events, file_lock
from registry_hooks.errors import NotACheckpointError, UserError

DEFAULT_NAME = ".relay-pending"
FAILED_NAME = "failed"
MAX_FAILED = 4
_NOTHING_KNOWN = Provenance()
_STAGING, _GONE = ".staging-", ".gone-"
# Checkpoints are copied under the queue's lock, one after the other.
_LONGEST_COPY_S = 3600.0
_QUEUE_LOCK, _PUBLISHER_LOCK, _SEEN_FILE = ".queue.lock", ".publisher.lock", ".seen.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """What staging did.

    Attributes:
        entry: None when this very save had been staged before.
        dropped: Entries that had to go since the queue was full.
    """

    entry: Entry | None
    dropped: tuple[Entry, ...] = ()


class PendingQueue:
    """Staged checkpoints in `folder`; any thread of any process of this machine may use it.

    Args:
        folder: Made if need be. Best on the file system of the checkpoints: elsewhere, files are copied.
        max_pending: With more, the oldest is dropped that nobody is publishing just now.
        target: Names where the entries are published, so that a save is remembered for that alone.

    Raises:
        UserError: The folder cannot be made or written.
    """

    def __init__(self, folder: Path, *, max_pending: int = 8, target: str = "") -> None:
        self.folder = folder
        self._max_pending = max(1, max_pending)
        self._target = target
        self._seen = SeenSaves(folder / _SEEN_FILE)
        try:
            (folder / FAILED_NAME).mkdir(parents=True, exist_ok=True)
            for name in (_QUEUE_LOCK, _PUBLISHER_LOCK):
                (folder / name).touch()
        except OSError as error:
            raise UserError(
                f"{folder}, where checkpoints wait to be published, cannot be written ({error.strerror}); nothing is "
                "published: make it writable, or name another folder"
            ) from error

    def stage(self, folder: Path, provenance: Provenance = _NOTHING_KNOWN) -> Staged:
        """Take the checkpoint in `folder` into the queue; its files are read no further than their headers.

        Raises:
            NotACheckpointError: It cannot be published; says why.
        """
        found = stageable.inspect(folder, base=provenance.base)
        code = provenance.code or code_state.look(provenance.code_dir)
        with file_lock.exclusive(self.folder / _QUEUE_LOCK, timeout_s=_LONGEST_COPY_S):
            fingerprint = papers.fingerprint(folder, self._target)
            if self.has_seen(folder):
                return Staged(entry=None)
            building = self.folder / f"{_STAGING}{secrets.token_hex(4)}"
            try:
                _link_all(found, building / folder.name)
                entry = Entry(
                    folder=self.folder / f"{folder.name}.{secrets.token_hex(4)}",
                    paper=Paper(
                        name=folder.name,
                        origin=folder.resolve(),
                        step=found.step,
                        staged_at=datetime.now(UTC),
                        parent_run_id=provenance.parent_run_id,
                        code_dir=provenance.code_dir.resolve(),
                        code=code,
                        arguments=None if provenance.arguments is None else dict(provenance.arguments),
                        base=found.base,
                        files=papers.stamps(building / folder.name),
                    ),
                )
                (building / papers.PAPER_FILE).write_bytes(entry.paper.to_json())
                building.rename(entry.folder)
            except BaseException:
                shutil.rmtree(building, ignore_errors=True)
                raise
            self._seen.remember(_key(folder), fingerprint)
            return Staged(entry=entry, dropped=self._make_room(entry))

    def has_seen(self, folder: Path) -> bool:
        """Whether the very save in `folder` was staged before, by whomever, or waits already for whichever target."""
        fingerprint = papers.fingerprint(folder, self._target)
        if self._seen.has(_key(folder), fingerprint) or self._seen.has(folder.name, fingerprint):
            return True
        stamps = papers.stamps(folder)
        return any(entry.paper.name == folder.name and entry.paper.files == stamps for entry in self.entries())

    def has_room(self) -> bool:
        """Whether one more can be staged without dropping another."""
        return len(self.entries()) < self._max_pending

    def entries(self) -> list[Entry]:
        """What waits, oldest first."""
        with contextlib.suppress(OSError):
            return _entries_in(self.folder)
        return []

    def failed(self) -> list[Entry]:
        """What was given up, oldest first; `entry.paper.failed_because` says why."""
        return _entries_in(self.folder / FAILED_NAME)

    @contextmanager
    def claimed(self, entry: Entry) -> Iterator[bool]:
        """Keep `entry` from being dropped; yields whether it is there and nobody else has it."""
        try:
            fd = file_lock.try_exclusive(entry.paper_path)
        except OSError:
            fd = None
        try:
            yield fd is not None
        finally:
            if fd is not None:
                os.close(fd)

    def secure(self, entry: Entry) -> None:
        """Make it outlast a power cut, also the trainer's own files in it; may take as long as they are large."""
        with contextlib.suppress(OSError):  # it was dropped meanwhile, or the disk does not flush
            for path in (*entry.checkpoint.iterdir(), entry.paper_path):
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            for folder in (entry.checkpoint, entry.folder, self.folder):
                durable.sync_folder(folder)

    def sweep(self) -> None:
        """Remove what was dropped, and what killed processes and power cuts left."""
        # Whatever looks unfinished then is nobody's.
        with file_lock.exclusive(self.folder / _QUEUE_LOCK, timeout_s=_LONGEST_COPY_S):
            for leftover in list(self.folder.iterdir()):
                if leftover.name.startswith(_STAGING) or _is_spoilt(leftover):
                    self._hide(leftover)
        for gone in self.folder.glob(f"{_GONE}*"):
            shutil.rmtree(gone, ignore_errors=True)

    def done(self, entry: Entry) -> None:
        """It is published: remove it."""
        self._remove(entry)

    def fail(self, entry: Entry, because: str) -> None:
        """Move it to `failed/`, with the reason in its paper; the oldest of too many there is removed."""
        given_up = entry.given_up(because)
        try:
            given_up.write_paper()
            entry.folder.rename(self.folder / FAILED_NAME / entry.folder.name)
        except OSError:  # a person removed it
            self._remove(entry)
        for old in self.failed()[:-MAX_FAILED]:
            events.logger().warning("checkpoint.forgotten", checkpoint=old.paper.name, because="too many have failed")
            self._remove(old)

    def try_lead(self) -> int | None:
        """An open descriptor that makes this process the one that publishes; None while another one is."""
        return file_lock.try_exclusive(self.folder / _PUBLISHER_LOCK)

    def _make_room(self, newest: Entry) -> tuple[Entry, ...]:
        waiting = self.entries()
        dropped: list[Entry] = []
        for entry in waiting:
            if len(waiting) - len(dropped) <= self._max_pending or entry.folder == newest.folder:
                break
            with self.claimed(entry) as is_mine:
                if is_mine:
                    self._hide(entry.folder)
                    self._seen.forget(_key(entry.paper.origin), entry.paper.name)
                    dropped.append(entry)
        for entry in dropped:
            events.logger().warning(
                "checkpoint.dropped", checkpoint=entry.paper.name, step=entry.paper.step, max_pending=self._max_pending
            )
        return tuple(dropped)

    def _remove(self, entry: Entry) -> None:
        gone = self._hide(entry.folder)
        shutil.rmtree(gone, ignore_errors=True)

    def _hide(self, folder: Path) -> Path:
        """Take it out of the queue at once; freeing gigabytes may take a while, and is for another thread."""
        gone = self.folder / f"{_GONE}{secrets.token_hex(4)}"
        with contextlib.suppress(OSError):
            folder.rename(gone)
        return gone


def _entries_in(folder: Path) -> list[Entry]:
    candidates = [path for path in folder.iterdir() if not path.name.startswith(".") and path.name != FAILED_NAME]
    found = (papers.read(path) for path in candidates)
    return sorted((entry for entry in found if entry is not None), key=lambda entry: entry.age_key)


def _is_spoilt(folder: Path) -> bool:
    """Whether it is an entry whose paper a power cut took."""
    paper, name = folder / papers.PAPER_FILE, folder.name.rpartition(".")[0]
    return bool(name) and (folder / name).is_dir() and (not paper.exists() or not paper.stat().st_size)


def _key(folder: Path) -> str:
    """Names the place of a save; earlier Relays knew only the folder's own name, which many trainings share."""
    return str(folder.resolve())


def _link_all(found: stageable.Stageable, target: Path) -> None:
    target.mkdir(parents=True)
    try:
        for name in found.files:
            _link(found.folder / name, target / name)
    except OSError as error:
        raise NotACheckpointError(
            f"{found.folder} could not be staged ({error}): the trainer removed it meanwhile, or the disk is full; "
            "it is not published"
        ) from error


def _link(source: Path, target: Path) -> None:
    """A second name for the same bytes; a copy where the file system has none to give."""
    whole = source.resolve(strict=True)  # a link to a symlink would go with the trainer's folder
    try:
        os.link(whole, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(whole, target)
