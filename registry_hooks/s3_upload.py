"""One file on its way into S3: in parts, in parallel, each checked against the manifest before it leaves."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from registry_hooks import manifest
from registry_hooks.errors import CorruptFileError
from registry_hooks.manifest import FileEntry
from registry_hooks.ports import Progress

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SHA256_METADATA = "relay-sha256"
MAX_PARTS = 10_000  # Source: Amazon S3 User Guide, "Multipart upload limits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Consecutive chunks of a file that travel in one request.

    Attributes:
        number: Counted from 1, as S3 does.
        chunks: Indexes of its chunks in the file, counted from 0.
    """

    number: int
    chunks: range


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One file and where it goes."""

    client: S3Client
    bucket: str
    key: str
    path: Path
    entry: FileEntry

    def run(self, progress: Progress, *, num_connections: int) -> None:
        """Send the file unless the store has it; botocore's errors come out as they are.

        Raises:
            CorruptFileError: The file changed since it was hashed; no object was made.
        """
        if self._is_there():
            progress(self.entry.size_bytes)
            return
        with _opened(self.path) as fd:
            if os.fstat(fd).st_size != self.entry.size_bytes:
                raise self._changed("has another size")
            if len(self.entry.chunk_sha256) <= 1:
                self._send_whole(fd)
                progress(self.entry.size_bytes)
            else:
                self._send_parts(fd, progress, num_connections)

    def _is_there(self) -> bool:
        try:
            head = self.client.head_object(Bucket=self.bucket, Key=self.key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            raise
        metadata = {key.lower(): value for key, value in head["Metadata"].items()}  # rclone answers with capitals
        return head["ContentLength"] == self.entry.size_bytes and metadata.get(SHA256_METADATA) == self.entry.sha256

    def _send_whole(self, fd: int) -> None:
        data, checksum = self._read(fd, Part(number=1, chunks=range(len(self.entry.chunk_sha256))))
        self.client.put_object(
            Bucket=self.bucket, Key=self.key, Body=data, ChecksumSHA256=checksum, Metadata=self._metadata
        )

    def _send_parts(self, fd: int, progress: Progress, num_connections: int) -> None:
        self._abort_earlier()
        upload_id = self.client.create_multipart_upload(
            Bucket=self.bucket, Key=self.key, Metadata=self._metadata, ChecksumAlgorithm="SHA256"
        )["UploadId"]
        try:
            with ThreadPoolExecutor(num_connections, thread_name_prefix="upload") as pool:
                parts = self._sent(pool, fd, upload_id, progress)
            self.client.complete_multipart_upload(
                Bucket=self.bucket, Key=self.key, UploadId=upload_id, MultipartUpload={"Parts": parts}
            )
        except BaseException:
            self._abort(upload_id)
            raise

    def _sent(self, pool: ThreadPoolExecutor, fd: int, upload_id: str, progress: Progress) -> list[Any]:
        def send(part: Part) -> Any:
            data, checksum = self._read(fd, part)
            answer = self.client.upload_part(
                Bucket=self.bucket,
                Key=self.key,
                UploadId=upload_id,
                PartNumber=part.number,
                Body=data,
                ChecksumSHA256=checksum,
            )
            progress(len(data))
            return {"PartNumber": part.number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}

        pending = [pool.submit(send, part) for part in parts_of(len(self.entry.chunk_sha256))]
        try:
            return [future.result() for future in pending]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise

    def _read(self, fd: int, part: Part) -> tuple[bytes, str]:
        """Bytes of a part, equal to the manifest's, and their sha256 as S3 writes it."""
        pieces = [self._read_chunk(fd, index) for index in part.chunks]
        if len(pieces) == 1:
            return pieces[0], _as_checksum(bytes.fromhex(self.entry.chunk_sha256[part.chunks[0]]))
        data = b"".join(pieces)
        return data, _as_checksum(hashlib.sha256(data).digest())

    def _read_chunk(self, fd: int, index: int) -> bytes:
        start, end = manifest.chunk_span(index, self.entry.size_bytes)
        data = os.pread(fd, end - start, start)
        if hashlib.sha256(data).hexdigest() != self.entry.chunk_sha256[index]:
            raise self._changed(f"has other bytes in chunk {index}")
        return data

    def _abort_earlier(self) -> None:
        """Parts of a try that was killed would stay in the store, invisible and paid for."""
        with contextlib.suppress(ClientError):  # some servers cannot list them
            listed = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=self.key)
            for upload in listed.get("Uploads", ()):
                if upload["Key"] == self.key:
                    self._abort(upload["UploadId"])

    def _abort(self, upload_id: str) -> None:
        with contextlib.suppress(ClientError, BotoCoreError):
            self.client.abort_multipart_upload(Bucket=self.bucket, Key=self.key, UploadId=upload_id)

    @property
    def _metadata(self) -> dict[str, str]:
        return {SHA256_METADATA: self.entry.sha256}

    def _changed(self, how: str) -> CorruptFileError:
        return CorruptFileError(
            f"{self.path} {how} than when it was hashed: it was changed while it was published; no object was made, "
            "publish the checkpoint again"
        )


def parts_of(num_chunks: int) -> list[Part]:
    """Parts of one chunk each, or of several where S3's bound on their number would be passed."""
    per_part = max(1, -(-num_chunks // MAX_PARTS))
    starts = range(0, num_chunks, per_part)
    return [
        Part(number=number, chunks=range(start, min(start + per_part, num_chunks)))
        for number, start in enumerate(starts, start=1)
    ]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CorruptFileError(f"{path} cannot be read any more ({error.strerror}): no object was made") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _as_checksum(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
