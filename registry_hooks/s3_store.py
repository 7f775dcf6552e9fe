"""The door to S3: MinIO, AWS and their relatives, over boto3, straight and never through MLflow."""

from __future__ import annotations

import base64
import hashlib
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import IncompleteReadError

from registry_hooks import trust
from registry_hooks.errors import (
    ObjectChangedError,
    ObjectTooLargeError,
    SettingsError,
    StoreError,
    TruncatedObjectError,
)
from registry_hooks.manifest import FileEntry
from registry_hooks.ports import Check, Progress, no_check
from registry_hooks.records import ObjectInfo
from registry_hooks.s3_errors import Call, translated
from registry_hooks.s3_upload import Upload
from registry_hooks.s3_uri import split
from registry_hooks.settings import StoreSettings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAX_OBJECTS = 100_000
_ATTEMPTS = 3
# At most so much is taken at once: it stays in the processor's cache between the socket and the copy.
_PIECE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A key pair, where that of the environment is not meant."""

    access_key_id: str
    secret_access_key: str


class S3Store:
    """Objects in S3. Implements the ports `ObjectReader`, `ObjectWriter` and `ObjectTrial`; any thread may use it.

    Credentials are those of the usual AWS environment and files unless given here.
    """

    def __init__(
        self, settings: StoreSettings, endpoint_url: str | None, *, credentials: Credentials | None = None
    ) -> None:
        self._endpoint = endpoint_url
        self._num_connections = settings.num_connections
        with translated(self._call("opening", "the store")):
            self._client = _connect(settings, endpoint_url, credentials)
        # Kept-alive connections end with the store, whoever forgets it.
        self.close = weakref.finalize(self, self._client.close)

    def list_objects(self, uri: str) -> Sequence[ObjectInfo]:
        """Everything below `uri`, sorted by key; folder markers are left out."""
        bucket, prefix = split(uri)
        prefix = f"{prefix}/" if prefix else ""
        found: list[ObjectInfo] = []
        with translated(self._call("listing", uri)):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                found += [
                    ObjectInfo(key=item["Key"].removeprefix(prefix), size_bytes=item["Size"], etag=item.get("ETag", ""))
                    for item in page.get("Contents", ())
                    if not item["Key"].endswith("/")
                ]
                if len(found) > MAX_OBJECTS:
                    raise ObjectTooLargeError(f"{uri} holds more than {MAX_OBJECTS} objects: this is no checkpoint")
        return sorted(found, key=lambda item: item.key)

    def read(self, uri: str, max_bytes: int, *, check: Check = no_check) -> bytes:
        bucket, key = split(uri)
        with translated(self._call("reading", uri)):
            answer = self._client.get_object(Bucket=bucket, Key=key)
            with answer["Body"] as body:
                if answer["ContentLength"] > max_bytes:
                    raise ObjectTooLargeError(
                        f"{uri} has {answer['ContentLength']} bytes, at most {max_bytes} may be read"
                    )
                data = bytearray(answer["ContentLength"])
                _fill(memoryview(data), body, check)
        return bytes(data)

    def read_into(self, uri: str, start: int, buffer: memoryview, *, etag: str = "", check: Check = no_check) -> None:
        bucket, key = split(uri)
        if not len(buffer):
            return
        wanted = f"bytes={start}-{start + len(buffer) - 1}"
        same: Any = {"IfMatch": etag} if etag else {}
        with translated(self._call("reading", uri)):
            answer = self._client.get_object(Bucket=bucket, Key=key, Range=wanted, **same)
            with answer["Body"] as body:
                # A store that knows no conditions; rclone quotes it in one place and not in the other.
                if etag and answer.get("ETag", etag).strip('"') != etag.strip('"'):
                    raise ObjectChangedError(f"{uri} was written anew while it was read")
                _check_range(answer, uri, start, len(buffer))
                _fill(buffer, body, check)

    def write(self, uri: str, data: bytes) -> None:
        bucket, key = split(uri)
        with translated(self._call("writing", uri)):
            self._client.put_object(Bucket=bucket, Key=key, Body=data, ChecksumSHA256=_checksum(data))

    def delete(self, uri: str) -> None:
        bucket, key = split(uri)
        with translated(self._call("deleting", uri)):
            self._client.delete_object(Bucket=bucket, Key=key)

    def upload(self, path: Path, entry: FileEntry, uri: str, progress: Progress) -> None:
        bucket, key = split(uri)
        with translated(self._call("uploading to", uri)):
            upload = Upload(client=self._client, bucket=bucket, key=key, path=path, entry=entry)
            upload.run(progress, num_connections=self._num_connections)

    def ensure_bucket(self, bucket: str) -> None:
        """Create `bucket` unless it is there."""
        with translated(self._call("creating", f"s3://{bucket}")):
            try:
                self._client.head_bucket(Bucket=bucket)
            except self._client.exceptions.ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                    raise
                self._client.create_bucket(Bucket=bucket)

    def _call(self, what: str, uri: str) -> Call:
        return Call(what=what, uri=uri, endpoint=self._endpoint)


def credentials_source() -> str | None:
    """Where the usual AWS environment and files have a key pair, such as `env`; None when they have none.

    Raises:
        SettingsError: They contradict each other, or cannot be read.
    """
    with translated(Call(what="looking for", uri="credentials", endpoint=None)):
        found = boto3.session.Session().get_credentials()
        return str(found.method) if found else None


def _connect(settings: StoreSettings, endpoint_url: str | None, credentials: Credentials | None) -> S3Client:
    config = Config(
        connect_timeout=settings.connect_timeout_s,
        read_timeout=settings.read_timeout_s,
        retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
        max_pool_connections=settings.num_connections + 2,
        # The whole object's checksum cannot be checked against a range, and older servers know none.
        response_checksum_validation="when_required",
        request_checksum_calculation="when_required",
        # Every body carries its sha256 in a signed header, so signing need not hash it once more.
        s3={"payload_signing_enabled": False, **({"addressing_style": "path"} if endpoint_url else {})},
    )
    keys: dict[str, Any] = {}
    if credentials:
        keys = {
            "aws_access_key_id": credentials.access_key_id,
            "aws_secret_access_key": credentials.secret_access_key,
        }
    session = boto3.session.Session(**keys)
    region = session.region_name or ("us-east-1" if endpoint_url else None)
    try:
        if endpoint_url and urlsplit(endpoint_url).password is not None:
            raise SettingsError(
                "store.endpoint_url (or MLFLOW_S3_ENDPOINT_URL) holds a password, which would end up in logs: use "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        return session.client("s3", endpoint_url=endpoint_url, region_name=region, config=config, verify=_authority())
    except ValueError as error:
        raise SettingsError(f"store.endpoint_url {endpoint_url!r} is not the URL of a store: {error}") from error


def _authority() -> str | None:
    """The authority that boto3 would not find by itself; None leaves the choice to it (`AWS_CA_BUNDLE`, AWS's files).

    Raises:
        SettingsError: A variable names what does not exist.
    """
    found = trust.authority(os.environ, "AWS_CA_BUNDLE")
    if found is None or found[0] in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        return None
    return str(found[1])


def _check_range(answer: Any, uri: str, start: int, length: int) -> None:
    """Refuse an answer that holds other bytes than were asked for; the status does not say (rclone answers 200)."""
    said = answer.get("ContentRange", "")
    if start and not said.startswith(f"bytes {start}-"):
        raise StoreError(f"the store ignores ranges: it answered {said or 'no range'!r} for {uri} from byte {start}")
    if answer["ContentLength"] < length:
        raise TruncatedObjectError(
            f"{uri} ends {length - answer['ContentLength']} bytes early: it is truncated in the store"
        )


def _fill(buffer: memoryview, body: Any, check: Check) -> None:
    """Fill it by what arrives, as it arrives: to wait for whole pieces is to wait for days where a store drips."""
    position = 0
    while position < len(buffer):
        check()
        piece = body.read1(min(_PIECE_BYTES, len(buffer) - position))
        if not piece:
            raise IncompleteReadError(actual_bytes=position, expected_bytes=len(buffer))
        buffer[position : position + len(piece)] = piece
        position += len(piece)


def _checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()
