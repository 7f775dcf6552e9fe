"""A version's files on this box, verified, in a cache like the server's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.evaluation.conduct import Conduct
from registry_hooks.blobs import BlobCache, Bound
from registry_hooks.fetching import fetch
from registry_hooks.ports import ObjectReader
from registry_hooks.records import ModelVersion
from registry_hooks.settings import Settings


def cache_of(settings: Settings, conduct: Conduct) -> BlobCache:
    """The cache for evaluations: not the server's own, from which only the server knows what may go."""
    return BlobCache(conduct.cache_dir or settings.serve.cache_dir / "evaluation")


def fetch_version(
    version: ModelVersion, *, reader: ObjectReader, cache: BlobCache, settings: Settings, conduct: Conduct
) -> Path:
    """The folder of the checkpoint, whole and verified; older ones make room for it.

    Raises:
        VerificationError: The bytes are not what was published.
        NotACheckpointError: The version has no checkpoint in safetensors.
        StoreError: The store did not answer, refused, or the disk is full; `transient` says which.
    """
    bound = Bound(max_bytes=conduct.max_cache_bytes)
    fetched = fetch(
        version,
        reader=reader,
        cache=cache,
        num_connections=settings.store.num_connections,
        deadline_s=settings.serve.fetch_timeout_s,
        bound=bound,
    )
    cache.evict(replace(bound, keep={fetched.digest}))
    return fetched.directory
