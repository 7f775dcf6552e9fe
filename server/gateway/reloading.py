"""From an alias to an engine that may answer users: fetch, verify, start beside, check, warm up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from registry_hooks import contract, events, fetching, last_good
from registry_hooks.blobs import BlobCache, Bound
from registry_hooks.errors import CacheError, DeclinedError, EngineStartError, FetchCancelledError, RelayError
from registry_hooks.fetching import Fetched
from registry_hooks.last_good import LastGood
from registry_hooks.ports import ObjectReader, VersionSource
from registry_hooks.records import ModelVersion
from registry_hooks.settings import Settings
from server.gateway import room
from server.gateway.checking import check_golden, warm_up
from server.gateway.engines import EngineRoom
from server.gateway.lineup import Checkpoint, LineUp, Slot

# How soon a fetch sees that it has ended, and whoever waits for it looks after what is served.
_MEANWHILE_S = 0.2


class Stopwatch:
    """Seconds per stage, in the order in which the stages ran."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.stage = ""

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self.stage = stage
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - begin


@dataclass(slots=True, kw_only=True)
class Reload:
    """One try to bring a version into service; filled in as it goes, read by nobody else before it ends.

    Attributes:
        outcome: `served`, `refused` (the version is at fault), `declined` (this box asks for more than it has),
            `failed` (to be tried again) or `superseded`.
        verdict: What the golden check said.
        tries: How many times in a row this version was tried, this one included.
    """

    version: ModelVersion
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str = ""
    because: str = ""
    verdict: str = ""
    tries: int = 1
    size_bytes: int = 0
    downloaded_bytes: int = 0
    watch: Stopwatch = field(default_factory=Stopwatch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """Brings versions up beside what answers now."""

    settings: Settings
    source: VersionSource
    reader: ObjectReader
    cache: BlobCache
    engines: EngineRoom
    lineup: LineUp

    def bring_up(
        self, reload: Reload, superseded: Callable[[], bool], *, meanwhile: Callable[[], None] = lambda: None
    ) -> Slot:
        """A slot whose engine holds the version, checked and warm; the line-up is as it was, but for memory's sake.

        Args:
            reload: The record of this try; stages and sizes are written into it.
            superseded: Whether the alias has moved on, asked now and then, from many threads.
            meanwhile: Called from this thread, some times a second, while files are fetched: that may take an hour.

        Raises:
            RelayError: What went wrong; nothing of the new engine is left.
        """
        with reload.watch("fetch"):
            fetched = _beside(lambda: self._fetch(reload.version, superseded), meanwhile)
        reload.downloaded_bytes = fetched.downloaded_bytes
        reload.watch.seconds["verify"] = fetched.verify_s
        reload.watch.seconds["fetch"] -= fetched.verify_s
        if superseded():
            raise FetchCancelledError(f"the alias moved on while {reload.version.label} was fetched")
        return self.start(self.checkpoint(reload.version, fetched), fetched, reload, superseded)

    def start(self, checkpoint: Checkpoint, fetched: Fetched, reload: Reload, cancelled: Callable[[], bool]) -> Slot:
        """An engine of files that are here, checked and warm.

        Raises:
            RelayError: What went wrong; nothing of the new engine is left.
        """
        reload.size_bytes = fetched.size_bytes
        self._make_room(checkpoint)
        with reload.watch("start"):
            engine = self.engines.start(checkpoint, cancelled)
        try:
            with reload.watch("golden"):
                required = self.settings.serve.require_golden
                reload.verdict = check_golden(engine, fetched.golden, required=required, cancelled=cancelled)
            with reload.watch("warm"):
                warm_up(engine, fetched.golden)
        except BaseException:
            engine.stop()
            raise
        degraded = room.degraded(self.settings.engine.device, engine.ready.device)
        if degraded:
            events.logger().warning("engine.degraded", version=checkpoint.version.version, because=degraded)
        return Slot(checkpoint=checkpoint, engine=engine, loaded_at=datetime.now(UTC), degraded=degraded)

    def start_cached(self, checkpoint: Checkpoint, reload: Reload, cancelled: Callable[[], bool]) -> Slot:
        """An engine of files that were fetched before.

        Raises:
            RelayError: They are not whole any more, or the engine does not start.
        """
        fetched = fetching.cached(
            self.cache,
            checkpoint.digest,
            attested=checkpoint.attested,
            golden_sha256=checkpoint.version.tags.get(contract.TAG_GOLDEN),
        )
        if fetched is None:
            raise CacheError(f"{checkpoint.version.label} is no longer whole in the cache {self.cache.root}")
        return self.start(replace(checkpoint, directory=str(fetched.directory)), fetched, reload, cancelled)

    def start_again(self, checkpoint: Checkpoint, reload: Reload, cancelled: Callable[[], bool]) -> Slot:
        """An engine of what was served just now; files that are no longer whole in the cache are fetched again.

        Raises:
            RelayError: The store does not have them now, or the engine does not start.
        """
        try:
            return self.start_cached(checkpoint, reload, cancelled)
        except CacheError as error:
            events.logger().warning("cache.lost", version=checkpoint.version.version, because=str(error))
            return self.bring_up(reload, cancelled)

    def last_good(self) -> Checkpoint | None:
        """What this box served last, if it noted that down and the settings still allow it."""
        known = last_good.recall(self.cache.root, self.settings.registry.name)
        if known is None or known.alias != self.settings.registry.alias:
            return None
        if self.settings.serve.require_manifest and not known.attested:
            return None
        return Checkpoint(
            version=known.version,
            digest=known.digest,
            directory="",
            attested=known.attested,
            size_bytes=0,
            score=known.score,
        )

    def remember(self, slot: Slot) -> None:
        """Bound the cache, and make what is served the last good."""
        served = slot.checkpoint
        self.cache.evict(self._bound(served.digest))
        record = LastGood(
            version=served.version,
            alias=self.settings.registry.alias,
            digest=served.digest,
            attested=served.attested,
            score=served.score,
        )
        last_good.remember(self.cache.root, self.settings.registry.name, record)

    def let_go(self) -> None:
        """Hold no file of the cache but those of engines that live, or are still to be stopped."""
        self.cache.use_only({slot.checkpoint.digest for slot in self.lineup.slots()})

    def _bound(self, *more: str) -> Bound:
        """Of the cache: what an engine holds stays, and what any model that shares it could be started from."""
        held = {slot.checkpoint.digest for slot in self.lineup.slots()}
        return Bound(
            max_bytes=self.settings.serve.max_cache_bytes, keep=held | last_good.digests(self.cache.root) | {*more}
        )

    def plan(self, version: ModelVersion, directory: Path | None = None) -> room.Plan:
        """How `version` would be started now; `directory` has its files when they are here."""
        engine, serve, tags = self.settings.engine, self.settings.serve, version.tags
        device = room.device_of(engine.device)
        if directory is not None:
            weights = room.weight_bytes(directory, device, engine.dtype)
        else:
            size, dtype = contract.whole_number(tags.get(contract.TAG_BYTES)), tags.get(contract.TAG_DTYPE, "")
            weights = room.estimated_weight_bytes(size or 0, dtype, device, engine.dtype)
        previous = self.lineup.previous
        warm = previous.engine.ready if previous is not None and previous.is_alive() else None
        return room.plan(
            device=device,
            needed=weights + room.overhead_bytes(device, engine.kv_budget_bytes),
            free=room.free_bytes(device),
            warm=(warm.vram_bytes or warm.rss_bytes) if warm else 0,
            reserve=serve.min_free_bytes,
        )

    def checkpoint(self, version: ModelVersion, fetched: Fetched) -> Checkpoint:
        """What an engine would serve, with its score from the registry if that answers."""
        return Checkpoint(
            version=version,
            digest=fetched.digest,
            directory=str(fetched.directory),
            attested=fetched.attested,
            size_bytes=fetched.size_bytes,
            score=self._score(version),
        )

    def _fetch(self, version: ModelVersion, superseded: Callable[[], bool]) -> Fetched:
        if version.digest is None and self.settings.serve.require_manifest:
            raise DeclinedError(
                f"{version.label} has no manifest and serve.require_manifest of this box is on; publish it with "
                "`relay publish`"
            )
        return fetching.fetch(
            version,
            reader=self.reader,
            cache=self.cache,
            num_connections=self.settings.store.num_connections,
            deadline_s=self.settings.serve.fetch_timeout_s,
            bound=self._bound(),
            cancelled=superseded,
        )

    def _make_room(self, checkpoint: Checkpoint) -> None:
        plan = self.plan(checkpoint.version, Path(checkpoint.directory))
        if plan.mode == "beside-after-stopping-previous":
            leaving = self.lineup.drop_previous()
            if leaving is not None:
                events.logger().info("engine.stopped_for_room", version=leaving.checkpoint.version.version)
                self.engines.drain_and_stop(leaving, self.lineup)
        elif plan.mode == "no-room" and self.lineup.current is not None and self.lineup.current.is_alive():
            raise EngineStartError(
                f"no room beside the model in service: {plan.because}; it stays, and this is tried again",
                stage="room",
            )

    def _score(self, version: ModelVersion) -> float | None:
        if version.run_id is None:
            return None
        try:
            return self.source.run_metrics(version.run_id).get(self.settings.registry.score_metric)
        except RelayError as error:
            events.logger().warning("score.unknown", version=version.version, because=str(error))
            return None


def _beside(fetch: Callable[[], Fetched], meanwhile: Callable[[], None]) -> Fetched:
    with futures.ThreadPoolExecutor(1, thread_name_prefix="fetching") as pool:
        job = pool.submit(fetch)
        while not futures.wait((job,), _MEANWHILE_S).done:
            meanwhile()
        return job.result()
