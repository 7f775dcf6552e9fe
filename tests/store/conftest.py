"""A shop that publishes checkpoints into the in-memory store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import stamina

from registry_hooks import contract, manifest
from registry_hooks.blobs import BlobCache
from registry_hooks.fetching import Fetched, fetch
from registry_hooks.golden import GoldenItem, GoldenSet, GreedyToken
from registry_hooks.manifest import FileEntry
from registry_hooks.memory_store import MemoryStore
from registry_hooks.records import ModelVersion

GOLDEN = GoldenSet(
    items=(GoldenItem(prompt="2+2=", token_logprobs=(-1.0, -0.5), greedy=(GreedyToken(text="4", gap=3.0),)),),
    device="cpu",
    dtype="float32",
)


@dataclass
class Shop:
    """A store with versions in it, and a cache to fetch them into."""

    cache_dir: Path
    store: MemoryStore = field(default_factory=MemoryStore)
    num_versions: int = 0
    golden: GoldenSet = GOLDEN

    @staticmethod
    def describe(path: str, data: bytes) -> FileEntry:
        spans = [manifest.chunk_span(index, len(data)) for index in range(manifest.num_chunks(len(data)))]
        return FileEntry(
            path=path,
            size_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            chunk_sha256=tuple(hashlib.sha256(data[start:end]).hexdigest() for start, end in spans),
        )

    @staticmethod
    def files(num_weight_bytes: int = 3 * manifest.CHUNK_BYTES + 1000) -> dict[str, bytes]:
        """A checkpoint; its weights are random and differ each time."""
        return {
            "model/config.json": b'{"architectures": ["Qwen3ForCausalLM"]}',
            "model/tokenizer.json": b'{"a": "tokenizer"}',
            "components/tokenizer/tokenizer.json": b'{"a": "tokenizer"}',
            "model/model.safetensors": os.urandom(num_weight_bytes),
        }

    @property
    def cache(self) -> BlobCache:
        return BlobCache(self.cache_dir)

    def put(self, files: Mapping[str, bytes], tags: Mapping[str, str] = {}) -> ModelVersion:
        """Files without a manifest, as others log them."""
        self.num_versions += 1
        root = f"s3://relay/v{self.num_versions}/artifacts"
        for path, data in files.items():
            self.store.write(f"{root}/{path}", data)
        return ModelVersion(
            name="m", version=self.num_versions, run_id="r", model_id=None, artifact_uri=root, tags=dict(tags)
        )

    def publish(self, files: Mapping[str, bytes], golden: GoldenSet | None = GOLDEN) -> ModelVersion:
        """Files as Relay publishes them."""
        made = manifest.build(self.describe(path, data) for path, data in files.items())
        companions, tags = {contract.MANIFEST_FILE: made.to_json()}, {contract.TAG_MANIFEST: made.digest}
        if golden:
            companions[contract.GOLDEN_FILE] = golden.to_json()
            tags[contract.TAG_GOLDEN] = hashlib.sha256(golden.to_json()).hexdigest()
        return self.put({**files, **companions}, tags)

    def overwrite(self, version: ModelVersion, path: str, data: bytes) -> None:
        self.store.write(f"{version.artifact_uri}/{path}", data)

    def fetch(self, version: ModelVersion, **options: Any) -> Fetched:
        given = {"reader": self.store, "cache": self.cache, "num_connections": 4, "deadline_s": 60, **options}
        return fetch(version, **given)

    @property
    def blobs(self) -> list[Path]:
        return sorted((self.cache_dir / "blobs" / "sha256").iterdir())

    @property
    def partials(self) -> list[Path]:
        return sorted((self.cache_dir / "partial").iterdir())

    @property
    def complete(self) -> list[str]:
        return sorted(path.parent.name for path in self.cache_dir.glob("checkpoints/*/COMPLETE"))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(cache_dir=tmp_path / "cache")


@pytest.fixture
def two_quick_attempts() -> Iterator[None]:
    with stamina.set_testing(True, attempts=2):
        yield
