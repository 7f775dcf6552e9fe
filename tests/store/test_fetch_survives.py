"""Fetching from a real S3 server, with a real kill and a real outage in the middle."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.stack import ports
from pipeline.stack.child import Child
from pipeline.stack.s3_server import s3_binary, s3_program
from registry_hooks import contract, manifest
from registry_hooks.errors import CorruptFileError, StoreUnavailableError
from registry_hooks.records import ModelVersion
from registry_hooks.s3_store import Credentials, S3Store
from registry_hooks.settings import StoreSettings

KEYS = Credentials(access_key_id="relay-tests", secret_access_key="a-secret-of-the-tests")
NUM_CHUNKS = 5
SLOW_FETCH = """
import sys, time
from pathlib import Path
from registry_hooks.blobs import BlobCache
from registry_hooks.fetching import fetch
from registry_hooks.records import ModelVersion
from registry_hooks.s3_store import Credentials, S3Store
from registry_hooks.settings import StoreSettings

endpoint, cache, uri, digest, key, secret = sys.argv[1:]
version = ModelVersion(
    name="m", version=1, run_id=None, model_id=None, artifact_uri=uri, tags={"relay.manifest_sha256": digest}
)
def tell(num_bytes):
    print(num_bytes, flush=True)
    time.sleep(0.3)
store = S3Store(StoreSettings(), endpoint, credentials=Credentials(access_key_id=key, secret_access_key=secret))
fetch(version, reader=store, cache=BlobCache(Path(cache)), num_connections=1, deadline_s=60, progress=tell)
"""


class Server:
    """An S3 server that can go away and come back on its port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, ports.take(0, host="127.0.0.1", setting="stack.s3_port")
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.store = S3Store(StoreSettings(connect_timeout_s=1, read_timeout_s=5), self.endpoint, credentials=KEYS)
        self.start()

    def start(self) -> None:
        program = s3_program(*s3_binary(), data=self.folder / "data", port=self.port, credentials=KEYS)
        self.child = Child(program, self.folder / "s3.log")
        self.child.wait_until(self._ready, timeout_s=60)

    def _ready(self) -> bool:
        try:
            self.store.ensure_bucket("relay")
        except StoreUnavailableError:
            return False
        return True

    def publish(self, shop: Any) -> ModelVersion:
        files = shop.files(NUM_CHUNKS * manifest.CHUNK_BYTES)
        made = manifest.build(shop.describe(path, data) for path, data in files.items())
        uri = f"s3://relay/{made.digest[:8]}"
        for path, data in {**files, contract.MANIFEST_FILE: made.to_json()}.items():
            self.store.write(f"{uri}/{path}", data)
        tags = {contract.TAG_MANIFEST: made.digest}
        return ModelVersion(name="m", version=1, run_id=None, model_id=None, artifact_uri=uri, tags=tags)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("s3"))
    yield server
    server.child.stop()
    server.store.close()


@pytest.mark.integration
def test_a_fetch_goes_on_where_a_kill_ended_the_last_one(s3: Server, shop: Any) -> None:
    version = s3.publish(shop)
    command = [sys.executable, "-c", SLOW_FETCH, s3.endpoint, str(shop.cache_dir)]
    command += [version.artifact_uri, str(version.digest), KEYS.access_key_id, KEYS.secret_access_key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        arrived = 0
        while arrived < 2 * manifest.CHUNK_BYTES:
            arrived += int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    after_the_kill = (list(shop.complete), len(shop.partials) > 0)

    fetched = shop.fetch(version, reader=s3.store)

    assert after_the_kill == ([], True)
    assert fetched.downloaded_bytes <= fetched.size_bytes - 2 * manifest.CHUNK_BYTES
    assert shop.complete == [version.digest]


@pytest.mark.integration
def test_an_outage_in_the_middle_is_reported_and_the_next_try_finishes(s3: Server, shop: Any) -> None:
    version, told = s3.publish(shop), list[int]()

    def stop_the_server(num_bytes: int) -> None:
        told.append(num_bytes)
        if sum(told) > 2 * manifest.CHUNK_BYTES and s3.child.alive:
            s3.child.stop()

    with pytest.raises(StoreUnavailableError):
        shop.fetch(version, reader=s3.store, num_connections=1, progress=stop_the_server, deadline_s=3)
    during = list(shop.complete)
    s3.start()
    fetched = shop.fetch(version, reader=s3.store)

    assert during == []
    assert fetched.downloaded_bytes < fetched.size_bytes - 2 * manifest.CHUNK_BYTES + 1000
    assert shop.complete == [version.digest]


@pytest.mark.integration
def test_a_bit_that_flipped_in_the_bucket_is_refused(s3: Server, shop: Any) -> None:
    version = s3.publish(shop)
    uri = f"{version.artifact_uri}/model/model.safetensors"
    data = bytearray(s3.store.read(uri, NUM_CHUNKS * manifest.CHUNK_BYTES))
    data[3 * manifest.CHUNK_BYTES + 5] ^= 16
    s3.store.write(uri, bytes(data))

    with pytest.raises(CorruptFileError, match="chunk 3"):
        shop.fetch(version, reader=s3.store)
    assert (shop.complete, [path for path in shop.blobs if path.stat().st_size > 1000]) == ([], [])
