"""Everything that S3 and botocore can throw at us has a name in our tree."""

from __future__ import annotations

import contextlib
import inspect
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from botocore import exceptions as boto

from registry_hooks.errors import (
    AccessDeniedError,
    FetchCancelledError,
    ObjectChangedError,
    ObjectMissingError,
    RelayError,
    SettingsError,
    StoreError,
    StoreUnavailableError,
    TruncatedObjectError,
)
from registry_hooks.s3_errors import Call, kind_of, translated
from registry_hooks.s3_store import Credentials, S3Store
from registry_hooks.s3_upload import MAX_PARTS, parts_of
from registry_hooks.settings import StoreSettings

KEYS = Credentials(access_key_id="relay-tests", secret_access_key="a-secret-of-the-tests")
CALL = Call(what="reading", uri="s3://relay/a/b", endpoint="http://127.0.0.1:9000")
# `kind_of` is for what botocore raises itself; what a server answers is told apart by its code.
ANSWERS = (boto.BotoCoreError, boto.ClientError, boto.EventStreamError)
EXCEPTIONS = [
    found
    for _, found in inspect.getmembers(boto, inspect.isclass)
    if found.__module__ == boto.__name__
    and issubclass(found, Exception)
    and not issubclass(found, Warning)
    and found not in ANSWERS
]


@pytest.mark.parametrize("error_class", EXCEPTIONS, ids=lambda c: c.__name__)
def test_every_exception_of_botocore_has_a_meaning(error_class: type[Exception]) -> None:
    assert kind_of(error_class) is not None, f"say in registry_hooks/s3_errors.py what {error_class.__name__} means"


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("NoSuchKey", 404, ObjectMissingError),
        ("404", 404, ObjectMissingError),
        ("NoSuchBucket", 404, StoreError),
        ("InvalidAccessKeyId", 403, AccessDeniedError),
        ("SignatureDoesNotMatch", 403, AccessDeniedError),
        ("403", 403, AccessDeniedError),
        ("SomethingNew", 403, AccessDeniedError),
        ("SlowDown", 503, StoreUnavailableError),
        ("XMinioServerNotInitialized", 503, StoreUnavailableError),
        ("InternalError", 500, StoreUnavailableError),
        ("502", 502, StoreUnavailableError),
        ("InvalidRange", 416, TruncatedObjectError),
        ("PreconditionFailed", 412, ObjectChangedError),
        ("EntityTooLarge", 400, StoreError),
        ("", 0, StoreError),
    ],
)
def test_what_a_server_answers_has_a_meaning(code: str, status: int, expected: type[RelayError]) -> None:
    answer = {"Error": {"Code": code, "Message": "so"}, "ResponseMetadata": {"HTTPStatusCode": status}}

    with pytest.raises(RelayError) as raised, translated(CALL):
        raise boto.ClientError(answer, "GetObject")  # type: ignore[arg-type]
    assert type(raised.value) is expected
    assert "s3://relay/a/b" in str(raised.value) or "'relay'" in str(raised.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (boto.NoCredentialsError(), AccessDeniedError),
        (boto.EndpointConnectionError(endpoint_url="http://x"), StoreUnavailableError),
        (boto.ReadTimeoutError(endpoint_url="http://x"), StoreUnavailableError),
        (boto.ProfileNotFound(profile="mine"), SettingsError),
        (boto.ParamValidationError(report="odd"), StoreError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_what_botocore_raises_becomes_ours(error: Exception, expected: type[RelayError]) -> None:
    with pytest.raises(RelayError) as raised, translated(CALL):
        raise error
    assert type(raised.value) is expected
    assert raised.value.__cause__ is error


def test_a_refused_key_says_which_endpoint_and_what_to_set() -> None:
    with pytest.raises(AccessDeniedError) as raised, translated(CALL):
        raise boto.NoCredentialsError
    assert "http://127.0.0.1:9000" in str(raised.value)
    assert "AWS_ACCESS_KEY_ID" in str(raised.value)


def test_a_password_in_the_endpoint_is_refused_and_not_shown() -> None:
    with pytest.raises(SettingsError, match="holds a password") as caught:
        S3Store(StoreSettings(), "http://user:hush@localhost:9000")

    assert "hush" not in str(caught.value)


def test_an_endpoint_that_is_no_url_is_a_matter_of_settings() -> None:
    with pytest.raises(SettingsError, match=r"store\.endpoint_url 'localhost:9000'"):
        S3Store(StoreSettings(), "localhost:9000", credentials=KEYS)


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[S3Store]:
    """A store whose server answers each request by `answer`, then hangs up."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        settings = StoreSettings(connect_timeout_s=1, read_timeout_s=0.3)
        store = S3Store(settings, f"http://127.0.0.1:{listener.getsockname()[1]}", credentials=KEYS)
        yield store
        store.close()
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def answering(head: str, body: bytes = b"") -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)


@pytest.mark.integration
def test_a_connection_that_is_cut_in_the_middle_is_worth_another_try() -> None:
    cut = answering("HTTP/1.1 206 Partial Content\nContent-Length: 100\nContent-Range: bytes 0-99/100", b"x" * 40)

    with server(cut) as store, pytest.raises(StoreUnavailableError):
        store.read_into("s3://relay/a", 0, memoryview(bytearray(100)))


@pytest.mark.integration
def test_a_server_that_ignores_ranges_is_refused() -> None:
    whole = answering("HTTP/1.1 200 OK\nContent-Length: 100", b"x" * 100)

    with server(whole) as store, pytest.raises(StoreError, match="ignores ranges"):
        store.read_into("s3://relay/a", 50, memoryview(bytearray(10)))


@pytest.mark.integration
def test_a_range_answered_with_status_200_is_taken() -> None:
    buffer = bytearray(10)
    ranged = answering("HTTP/1.1 200 OK\nContent-Length: 10\nContent-Range: bytes 50-59/100", b"0123456789")

    with server(ranged) as store:
        store.read_into("s3://relay/a", 50, memoryview(buffer))

    assert buffer == b"0123456789"


@pytest.mark.integration
def test_a_server_that_stays_silent_is_unavailable() -> None:
    silence = threading.Event()

    with server(lambda connection: silence.wait(0.6) and None) as store, pytest.raises(StoreUnavailableError):
        store.read_into("s3://relay/a", 0, memoryview(bytearray(10)))


def a_small_object(store: S3Store, check: Callable[[], None]) -> None:
    store.read("s3://relay/a", 4000, check=check)


def a_range(store: S3Store, check: Callable[[], None]) -> None:
    store.read_into("s3://relay/a", 0, memoryview(bytearray(4000)), check=check)


@pytest.mark.integration
@pytest.mark.parametrize("read", [a_small_object, a_range])
def test_whoever_no_longer_waits_for_a_store_that_drips_is_free_at_the_next_drop(
    read: Callable[[S3Store, Callable[[], None]], None],
) -> None:
    drops = list[bytes]()
    head = "HTTP/1.1 206 Partial Content\nContent-Length: 4000\nContent-Range: bytes 0-3999/4000"

    def drip(connection: socket.socket) -> None:
        answering(head)(connection)
        while len(drops) < 60:
            drops.append(b"x")
            connection.sendall(b"x")
            time.sleep(0.05)

    def check() -> None:
        if len(drops) > 2:
            raise FetchCancelledError("no longer wanted")

    with server(drip) as store, pytest.raises(FetchCancelledError):
        read(store, check)
    assert len(drops) < 60


@pytest.mark.integration
def test_a_busy_server_is_unavailable() -> None:
    body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
    busy = answering(f"HTTP/1.1 503 Slow Down\nContent-Type: application/xml\nContent-Length: {len(body)}", body)

    with server(busy) as store, pytest.raises(StoreUnavailableError, match="SlowDown"):
        store.read("s3://relay/a", 10)


@pytest.mark.parametrize("num_chunks", [1, MAX_PARTS, MAX_PARTS + 1, 25 * MAX_PARTS + 3])
def test_parts_cover_all_chunks_within_s3s_bound(num_chunks: int) -> None:
    parts = parts_of(num_chunks)

    assert len(parts) <= MAX_PARTS
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert [index for part in parts for index in part.chunks] == list(range(num_chunks))
