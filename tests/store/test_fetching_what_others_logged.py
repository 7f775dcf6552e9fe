"""A version that Relay did not publish is fetched unattested, or refused with what to do."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import pytest

from registry_hooks import contract, manifest
from registry_hooks.errors import (
    NotACheckpointError,
    UnsupportedSourceError,
)


@pytest.mark.parametrize("uri", ["mlflow-artifacts:/1/models/m-1/artifacts", "file:///x", "dbfs:/x", "gs://b/x", ""])
@pytest.mark.parametrize("tags", [{}, {contract.TAG_MANIFEST: "0" * 64}])
def test_a_version_outside_s3_says_how_to_start_mlflow(shop: Any, uri: str, tags: dict[str, str]) -> None:
    version = replace(shop.publish(shop.files()), artifact_uri=uri, tags=tags)

    with pytest.raises(UnsupportedSourceError, match="--no-serve-artifacts"):
        shop.fetch(version)


@pytest.mark.parametrize("folder", ["", "model/"])
def test_a_version_without_a_manifest_is_served_unattested(shop: Any, folder: str) -> None:
    weights = os.urandom(manifest.CHUNK_BYTES + 5)
    version = shop.put(
        {
            f"{folder}config.json": b"{}",
            f"{folder}model.safetensors": weights,
            f"{folder}tokenizer.json": b"tokens",
            f"{folder}optimizer.pt": b"a pickle",
            f"{folder}nested/model.safetensors": b"another model",
            "MLmodel": b"flavors: {}",
            "components/tokenizer/tokenizer.json": b"other tokens",
        }
    )

    first = shop.fetch(version)
    again = shop.fetch(version)

    names = {path.name: path.read_bytes() for path in first.directory.iterdir()}
    assert names == {"config.json": b"{}", "model.safetensors": weights, "tokenizer.json": b"tokens"}
    assert (first.attested, first.golden) == (False, None)
    assert (
        first.digest == again.digest == manifest.parse((first.directory.parent / "manifest.json").read_bytes()).digest
    )


def test_the_tokenizer_that_mlflow_stores_elsewhere_is_put_beside_the_weights(shop: Any) -> None:
    version = shop.put(
        {
            "model/config.json": b"{}",
            "model/model.safetensors": b"weights",
            "model/chat_template.jinja": b"{{ messages }}",
            "components/tokenizer/tokenizer.json": b"tokens",
            "components/tokenizer/chat_template.jinja": b"{{ messages }}",
            "components/tokenizer/evil.py": b"import os",
        }
    )

    folder = shop.fetch(version).directory

    assert sorted(os.listdir(folder)) == ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme.md": b"hello"}, r"no config\.json"),
        ({"model/config.json": b"{}"}, r"no \*\.safetensors"),
        ({"config.json": b"{}", "pytorch_model.bin": b"pickle"}, r"only as pickle \(pytorch_model\.bin\)"),
    ],
)
def test_what_is_no_checkpoint_in_safetensors_is_refused(shop: Any, files: dict[str, bytes], message: str) -> None:
    version = shop.put(files)

    with pytest.raises(NotACheckpointError, match=message) as raised:
        shop.fetch(version)
    assert version.artifact_uri in str(raised.value)
    assert shop.complete == []


def test_a_golden_file_without_a_tag_is_not_believed(shop: Any) -> None:
    version = shop.publish(shop.files(), golden=None)
    shop.overwrite(version, contract.GOLDEN_FILE, json.dumps({}).encode())

    assert shop.fetch(version).golden is None
