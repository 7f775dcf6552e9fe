"""`s3://bucket/key`. Pure; standard library only."""

from __future__ import annotations

from registry_hooks.errors import UnsupportedSourceError


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of an S3 URI; the key may be empty.

    Raises:
        UnsupportedSourceError: It is the URI of something else.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise UnsupportedSourceError(
            f"{uri!r} is not in S3, and Relay reads and writes S3 directly: start MLflow with "
            "`--no-serve-artifacts --default-artifact-root s3://BUCKET/PREFIX`, and use an experiment made since then"
        )
    return bucket, key
