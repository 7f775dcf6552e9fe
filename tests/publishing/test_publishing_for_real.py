"""A checkpoint becomes a version: real MLflow, real S3, a real engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest

from registry_hooks import contract, golden, manifest
from registry_hooks.records import ModelVersion
from tests.publishing.road import DEADLINE_S, Road

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work tree with one commit and a change that is not committed."""
    folder = tmp_path_factory.mktemp("code")
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    (folder / "train.py").write_text("pass")
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "train"]):
        subprocess.run([*git, *command], check=True)
    (folder / "train.py").write_text("raise")
    return folder


@pytest.fixture(scope="module")
def published(road: Road, tiny_checkpoint: Path, code: Path) -> tuple[ModelVersion, str]:
    """The checkpoint as version 1 of `published`, and what the terminal showed."""
    status, out, err = road.publish("published", tiny_checkpoint, "--code-dir", str(code))
    assert status == 0, err
    return road.registry.get_version("published", 1), out


def test_a_version_tells_where_it_comes_from(
    road: Road, published: tuple[ModelVersion, str], code: Path, tiny_checkpoint: Path
) -> None:
    version, out = published
    head = subprocess.run(["git", "-C", str(code), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    tags = version.tags

    assert version.step == 20
    assert (tags[contract.TAG_GIT_COMMIT], tags[contract.TAG_GIT_DIRTY]) == (head.stdout.strip(), "true")
    assert len(tags[contract.TAG_CONFIG_HASH]) == 16
    assert tags[contract.TAG_DTYPE] == "float32"
    assert tags[contract.TAG_SAVED_AT].endswith("+00:00")
    assert contract.TAG_NONFINITE not in tags
    assert dict(road.registry.run_metrics(version.run_id or "")) == {"eval_loss": 5.25}
    assert "published published/1 step 20" in out
    assert "?workflowType=machine_learning" in out


def test_its_files_are_those_of_the_contract_and_of_the_manifest(
    road: Road, published: tuple[ModelVersion, str], tiny_checkpoint: Path
) -> None:
    version, _ = published
    files = road.files(version)
    listed = manifest.parse(road.read(version, "manifest.json"), expected_digest=version.digest)
    names = {path.name for path in tiny_checkpoint.iterdir()}
    tokenizer = {name for name in names if name in contract.TOKENIZER_FILES}

    assert files.keys() == (
        {"MLmodel", "requirements.txt", "conda.yaml", "python_env.yaml", "manifest.json", "golden.json"}
        | {f"model/{name}" for name in names}
        | {f"components/tokenizer/{name}" for name in tokenizer}
    )
    assert {entry.path: entry.size_bytes for entry in listed.files} == {
        path: size for path, size in files.items() if path.startswith("model/")
    }
    assert version.tags[contract.TAG_BYTES] == str(listed.size_bytes)
    assert road.read(version, "model/model.safetensors") == (tiny_checkpoint / "model.safetensors").read_bytes()


def test_its_golden_answers_are_recorded(road: Road, published: tuple[ModelVersion, str]) -> None:
    version, _ = published
    recorded = golden.parse(road.read(version, "golden.json"), expected_sha256=version.tags[contract.TAG_GOLDEN])

    assert (recorded.device, recorded.dtype) == ("cpu", "float32")
    assert len(recorded.items) >= 4
    assert all(len(item.token_logprobs) > 20 for item in recorded.items)
    assert golden.compare(recorded, recorded).passed


def test_publishing_the_same_files_again_makes_no_second_version(
    road: Road, published: tuple[ModelVersion, str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    status, out, err = road.publish("published", copytree(tiny_checkpoint, tmp_path / "copy"))

    assert status == 0, err
    assert "nothing was published again" in out
    assert road.num_versions("published") == 1


def test_mlflows_own_loaders_load_it_and_it_answers(
    road: Road, published: tuple[ModelVersion, str], tmp_path: Path
) -> None:
    road.registry.rest.post("/registered-models/alias", name="published", alias="Production", version="1")
    script = """
import json, mlflow
pipe = mlflow.transformers.load_model("models:/published@Production", device="cpu")
text = pipe("copy: abc", max_new_tokens=4, do_sample=False)
model = mlflow.pyfunc.load_model("models:/published@Production")
chat = model.predict({"messages": [{"role": "user", "content": "copy: abc"}], "max_tokens": 4})
print(json.dumps([type(pipe).__name__, text[0]["generated_text"], chat]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=road.environ("published", TMPDIR=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kind, text, [chat] = json.loads(done.stdout.splitlines()[-1])

    assert kind == "TextGenerationPipeline"
    assert text.startswith("copy: abc")
    assert chat["choices"][0]["message"]["role"] == "assistant"
    assert chat["model"] == "published"


def test_a_converted_copy_is_half_as_large_and_says_its_dtype(
    road: Road, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    status, _, err = road.publish("converted", tiny_checkpoint, "--dtype", "bfloat16", TMPDIR=str(tmp_path))
    assert status == 0, err
    version = road.registry.get_version("converted", 1)
    before = (tiny_checkpoint / "model.safetensors").stat().st_size

    assert version.tags[contract.TAG_DTYPE] == "bfloat16"
    assert before / 2 <= road.files(version)["model/model.safetensors"] < before * 0.51
    assert json.loads(road.read(version, "model/config.json"))["dtype"] == "bfloat16"
    assert list(tmp_path.iterdir()) == []
