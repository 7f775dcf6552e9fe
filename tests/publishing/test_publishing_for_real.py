"""A checkpoint becomes a version: real MLflow, real S3, a real engine, and whatever can go wrong on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any
from uuid import uuid4

import psutil
import pytest

from pipeline.publishing import PublishOptions, publish
from pipeline.stack.local import LocalStack
from registry_hooks import contract, golden, manifest
from registry_hooks.errors import CorruptFileError, UnknownModelError
from registry_hooks.manifest import FileEntry
from registry_hooks.mlflow_catalog import MlflowCatalog
from registry_hooks.mlflow_registry import MlflowRegistry
from registry_hooks.ports import Progress
from registry_hooks.records import ModelVersion
from registry_hooks.s3_store import Credentials, S3Store
from registry_hooks.settings import RegistrySettings, Settings, StoreSettings

pytestmark = pytest.mark.integration
CLI = [sys.executable, "-c", "from pipeline.cli import main; main()", "publish"]
DEADLINE_S = 90.0


@dataclass(frozen=True)
class Road:
    """The stack, and a user's terminal on it."""

    stack: LocalStack
    registry: MlflowRegistry
    store: S3Store

    def environ(self, name: str, **changes: str) -> dict[str, str]:
        return {**os.environ, **self.stack.env, "RELAY_REGISTRY__NAME": name, **changes}

    def start(self, name: str, folder: Path, *options: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*CLI, str(folder), *options],
            env=self.environ(name, **environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def publish(self, name: str, folder: Path, *options: str, **environ: str) -> tuple[int, str, str]:
        process = self.start(name, folder, *options, **environ)
        out, err = process.communicate(timeout=DEADLINE_S)
        return process.returncode, out, err

    def files(self, version: ModelVersion) -> dict[str, int]:
        return {item.key: item.size_bytes for item in self.store.list_objects(version.artifact_uri)}

    def read(self, version: ModelVersion, path: str) -> bytes:
        return self.store.read(f"{version.artifact_uri}/{path}", 10_000_000)

    def num_versions(self, name: str) -> int:
        number = 0
        while True:
            try:
                self.registry.get_version(name, number + 1)
            except UnknownModelError:
                return number
            number += 1


@pytest.fixture(scope="module")
def road(stack: LocalStack) -> Iterator[Road]:
    keys = Credentials(
        access_key_id=stack.env["AWS_ACCESS_KEY_ID"], secret_access_key=stack.env["AWS_SECRET_ACCESS_KEY"]
    )
    store = S3Store(Settings().store, stack.s3_endpoint_url, credentials=keys)
    registry = MlflowRegistry(stack.tracking_uri, timeout_s=20, write_timeout_s=60)
    yield Road(stack, registry, store)
    registry.close()


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


def with_history(folder: Path, **metrics: float) -> None:
    state = json.loads((folder / "trainer_state.json").read_text())
    state["log_history"] = [{"step": 20, **metrics}]
    (folder / "trainer_state.json").write_text(json.dumps(state))


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def survivor(
    road: Road, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str, Mapping[str, Any]]:
    """A checkpoint with a NaN whose publishing was killed in the middle and begun again."""
    folder = copytree(tiny_checkpoint, tmp_path_factory.mktemp("killed") / "checkpoint-20")
    with_history(folder, eval_loss=float("nan"), eval_exact_match=0.25)
    root = f"s3://{road.stack.bucket}"
    before = {item.key for item in road.store.list_objects(root)}

    def new_weights() -> set[str]:
        now = {item.key for item in road.store.list_objects(root)}
        return {key for key in now - before if key.endswith("model/model.safetensors")}

    process = road.start("survivor", folder)
    wait_for(new_weights)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=DEADLINE_S)
    facts: dict[str, Any] = {"versions_between": road.num_versions("survivor"), "weights_between": new_weights()}
    facts["orphans"] = psutil.wait_procs(children, timeout=10)[1]
    status, out, err = road.publish("survivor", folder)
    assert status == 0, err
    facts["weights_after"] = new_weights()
    return out, err, facts


def test_a_killed_publisher_leaves_no_version_and_no_engine(survivor: tuple[str, str, Mapping[str, Any]]) -> None:
    _, _, facts = survivor

    assert facts["versions_between"] == 0
    assert facts["orphans"] == []


def test_publishing_again_completes_what_the_killed_one_began(
    road: Road, survivor: tuple[str, str, Mapping[str, Any]]
) -> None:
    _, _, facts = survivor
    version = road.registry.get_version("survivor", 1)

    assert road.num_versions("survivor") == 1
    assert facts["weights_after"] == facts["weights_between"]
    assert len(facts["weights_after"]) == 1
    assert "golden.json" in road.files(version)


def test_a_nan_metric_is_a_tag_and_never_a_metric(road: Road, survivor: tuple[str, str, Mapping[str, Any]]) -> None:
    out, _, _ = survivor
    version = road.registry.get_version("survivor", 1)
    model = road.registry.rest.get(f"/logged-models/{version.model_id}")["model"]

    assert version.tags[contract.TAG_NONFINITE] == "eval_loss=nan"
    assert dict(road.registry.run_metrics(version.run_id or "")) == {"eval_exact_match": 0.25}
    assert [metric["key"] for metric in model["data"]["metrics"]] == ["eval_exact_match"]
    assert "warning: not finite" in out
    assert "eval_loss = nan" in out


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


@pytest.mark.parametrize(
    ("options", "environ", "words"),
    [
        ((), {"AWS_SECRET_ACCESS_KEY": "wrong"}, "AWS_SECRET_ACCESS_KEY"),
        (("--run-id", "f" * 32), {}, "--run-id"),
        (("--step", "21"), {}, "--step"),
        (("--dtype", "int3"), {}, "dtype"),
        ((), {"MLFLOW_TRACKING_URI": "sqlite:///here.db"}, "MLflow server"),
    ],
)
def test_the_users_mistakes_exit_with_2_and_register_nothing(
    road: Road, tiny_checkpoint: Path, options: tuple[str, ...], environ: dict[str, str], words: str
) -> None:
    name = f"mistake-{uuid4().hex[:8]}"
    status, _, err = road.publish(name, tiny_checkpoint, *options, **environ)

    assert status == 2, err
    assert words in err
    assert "Traceback" not in err
    with pytest.raises(UnknownModelError):
        road.registry.model_tags(name)


def test_mlflow_that_is_down_is_no_mistake_of_the_user(road: Road, tiny_checkpoint: Path) -> None:
    status, _, err = road.publish("down", tiny_checkpoint, MLFLOW_TRACKING_URI="http://127.0.0.1:9")

    assert status == 1
    assert "did not answer" in err


class _Meddler:
    """A store in whose way somebody saves over the checkpoint."""

    def __init__(self, store: S3Store, victim: Path) -> None:
        self._store = store
        self._victim = victim
        self.list_objects = store.list_objects
        self.write = store.write

    def upload(self, path: Path, entry: FileEntry, uri: str, progress: Progress) -> None:
        if path == self._victim:
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)
        self._store.upload(path, entry, uri, progress)


class _Silence:
    """Nobody watches."""

    def begin(self, stage: str, total_bytes: int) -> None:
        pass

    def advance(self, stage: str, num_bytes: int) -> None:
        pass

    def end(self, stage: str, seconds: float) -> None:
        pass


def test_files_that_change_meanwhile_are_not_published(road: Road, tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = copytree(tiny_checkpoint, tmp_path / "checkpoint-20")
    with_history(folder, eval_loss=4.0)
    with pytest.raises(CorruptFileError, match="changed"):
        publish(
            folder,
            catalog=MlflowCatalog(road.registry),
            writer=_Meddler(road.store, folder / "model.safetensors"),
            settings=Settings(registry=RegistrySettings(name="meddled"), store=StoreSettings()),
            options=PublishOptions(),
            progress=_Silence(),
        )

    with pytest.raises(UnknownModelError):
        road.registry.model_tags("meddled")
