"""Many real versions in little time: copies of a published one whose `trainer_state.json` says another step.

Each has a manifest and so a digest of its own, and is fetched, verified and started like any other. Its weights, and so
its golden answers, are those of the version that it is a copy of.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import boto3
from mlflow import MlflowClient

from pipeline.stack.local import LocalStack
from registry_hooks import contract, manifest
from registry_hooks.manifest import FileEntry

_STATE_FILE = f"{contract.MODEL_DIR}/trainer_state.json"


@dataclass(frozen=True, kw_only=True)
class Mint:
    """Makes versions of `name`; `weights` says for each version which published version it is a copy of."""

    stack: LocalStack
    name: str
    client: MlflowClient
    s3: Any
    weights: dict[int, int] = field(default_factory=dict)

    def copy(self, original: int, *, step: int) -> int:
        """The number of a new version with the weights of version `original`."""
        source = self._prefix(original)
        target = f"chaos/{self.name}/{step}"
        state = json.dumps({"global_step": step, "log_history": []}).encode()
        listed = manifest.parse(self._read(f"{source}/{contract.MANIFEST_FILE}"))
        kept = [entry for entry in listed.files if entry.path != _STATE_FILE]
        digest = sha256(state).hexdigest()
        entry = FileEntry(path=_STATE_FILE, size_bytes=len(state), sha256=digest, chunk_sha256=(digest,))
        changed = manifest.build([*kept, entry])
        for path in [contract.GOLDEN_FILE, *(entry.path for entry in kept)]:
            copied = {"Bucket": self.stack.bucket, "Key": f"{source}/{path}"}
            self.s3.copy_object(Bucket=self.stack.bucket, Key=f"{target}/{path}", CopySource=copied)
        for path, data in ((_STATE_FILE, state), (contract.MANIFEST_FILE, changed.to_json())):
            self.s3.put_object(Bucket=self.stack.bucket, Key=f"{target}/{path}", Body=data)
        tags = self.client.get_model_version(self.name, str(original)).tags
        tags |= {contract.TAG_STEP: str(step), contract.TAG_MANIFEST: changed.digest}
        place = f"s3://{self.stack.bucket}/{target}"
        made = self.client.create_model_version(self.name, place, tags=tags, await_creation_for=0)
        number = int(made.version)
        self.weights[number] = self.weights.get(original, original)
        return number

    def point_at(self, version: int) -> None:
        """Move the alias as a person does."""
        self.client.set_registered_model_alias(self.name, contract.ALIAS_PRODUCTION, version)

    def delete(self, version: int) -> None:
        """Take a version away again, files and all."""
        prefix = self._prefix(version)
        self.client.delete_model_version(self.name, str(version))
        page = self.s3.list_objects_v2(Bucket=self.stack.bucket, Prefix=f"{prefix}/")
        for item in page.get("Contents", []):
            self.s3.delete_object(Bucket=self.stack.bucket, Key=item["Key"])

    def _prefix(self, version: int) -> str:
        uri = self.client.get_model_version_download_uri(self.name, str(version))
        return uri.removeprefix(f"s3://{self.stack.bucket}/").rstrip("/")

    def _read(self, key: str) -> bytes:
        data: bytes = self.s3.get_object(Bucket=self.stack.bucket, Key=key)["Body"].read()
        return data


def mint(stack: LocalStack, name: str, *, published: tuple[int, ...]) -> Mint:
    """A mint whose originals are the versions `published`."""
    client = MlflowClient(tracking_uri=stack.tracking_uri, registry_uri=stack.tracking_uri)
    s3 = boto3.client(
        "s3",
        endpoint_url=stack.s3_endpoint_url,
        aws_access_key_id=stack.env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=stack.env["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )
    return Mint(stack=stack, name=name, client=client, s3=s3, weights={number: number for number in published})
