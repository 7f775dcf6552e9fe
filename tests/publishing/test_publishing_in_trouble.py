"""Publishing that is killed, mistaken, without a server or without its files: no half version, and told in words."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import copytree
from typing import Any
from uuid import uuid4

import psutil
import pytest

from pipeline.publishing import PublishOptions, publish
from registry_hooks import contract
from registry_hooks.errors import CorruptFileError, UnknownModelError
from registry_hooks.manifest import FileEntry
from registry_hooks.mlflow_catalog import MlflowCatalog
from registry_hooks.ports import Progress
from registry_hooks.s3_store import S3Store
from registry_hooks.settings import RegistrySettings, Settings, StoreSettings
from tests.publishing.road import DEADLINE_S, Road

pytestmark = pytest.mark.integration


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
