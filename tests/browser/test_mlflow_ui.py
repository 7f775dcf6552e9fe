"""What a person sees in the MLflow UI: each version with its own metrics, and the Production alias where it is.

Screenshots go to the folder that `SCREENSHOTS_DIR` names, when it is set.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.demo.world import save_untrained
from pipeline.mlflow_pages import compare_link
from pipeline.stack.local import LocalStack
from registry_hooks.mlflow_registry import MlflowRegistry

pytestmark = [pytest.mark.browser, pytest.mark.integration]

ENV_SCREENSHOTS = "SCREENSHOTS_DIR"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 90_000
# Step -> eval metrics. All can be written in the four digits that the UI shows.
METRICS = {
    100: {"eval_loss": 3.5, "eval_exact_match": 0.125},
    200: {"eval_loss": 2.25, "eval_exact_match": 0.5},
    300: {"eval_loss": 1.125, "eval_exact_match": 0.875},
}

if CHROMIUM is None:
    pytest.skip("no chromium on the PATH: the MLflow UI is not looked at", allow_module_level=True)

from playwright.sync_api import Page, sync_playwright  # noqa: E402 - after the skip, which must not need it


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A registered model with one version per step of `METRICS`; Production is on version 2."""

    name: str
    tracking_uri: str
    runs: dict[str, str]


def publish(folder: Path, name: str, step: int, stack: LocalStack) -> None:
    save_untrained(folder, seed=step)
    history = [METRICS[step] | {"step": step}]
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": history}))
    command = [str(Path(sys.executable).with_name("relay")), "publish", str(folder), "--name", name]
    done = subprocess.run(command, env={**os.environ, **stack.env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def model(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Model:
    import mlflow

    name = f"ui-{uuid.uuid4().hex[:8]}"
    training = tmp_path_factory.mktemp("training")
    for step in METRICS:
        publish(training / f"checkpoint-{step}", name, step, stack)
    person = mlflow.MlflowClient(tracking_uri=stack.tracking_uri, registry_uri=stack.tracking_uri)
    person.set_registered_model_alias(name, "Production", "2")
    registry = MlflowRegistry(stack.tracking_uri)
    runs = {str(number): str(registry.get_version(name, number).run_id) for number in range(1, len(METRICS) + 1)}
    registry.close()
    return Model(name=name, tracking_uri=stack.tracking_uri, runs=runs)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1500, "height": 1100})
        page.set_default_timeout(PATIENCE_MS)
        yield page
        browser.close()


def screenshot(page: Page, name: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get(ENV_SCREENSHOTS) or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


def table(page: Page) -> dict[str, list[str]]:
    """The cells of every table row on the page, by the row's heading."""
    rows = page.locator("tr:visible").all()
    headed = [(row.locator("th"), row.locator("td")) for row in rows]
    return {head.first.inner_text().strip(): cells.all_inner_texts() for head, cells in headed if cells.count()}


def test_the_model_page_shows_production_at_its_version(model: Model, page: Page, tmp_path: Path) -> None:
    page.goto(f"{model.tracking_uri}/#/models/{model.name}?workflowType=machine_learning")
    page.get_by_text("@ Production").wait_for()
    texts = [" ".join(text.split()) for text in page.get_by_role("row").all_inner_texts()]
    rows = {match[0]: text for text in texts if (match := re.match(r"Version \d+", text))}
    screenshot(page, "model", tmp_path)

    assert sorted(rows) == ["Version 1", "Version 2", "Version 3"]
    assert [name for name, text in rows.items() if "@ Production" in text] == ["Version 2"]
    for number, step in enumerate(METRICS, start=1):
        assert f"relay.step : {step} " in rows[f"Version {number}"]


def test_the_compare_page_shows_each_version_its_own_metrics(model: Model, page: Page, tmp_path: Path) -> None:
    page.goto(compare_link(model.tracking_uri, model.name, model.runs))
    page.get_by_role("cell", name="0.125").wait_for()
    rows = table(page)
    screenshot(page, "compare", tmp_path)

    assert [cell.strip() for cell in rows["Model Version:"]] == ["1", "2", "3"]
    assert [float(cell) for cell in rows["eval_loss"]] == [metrics["eval_loss"] for metrics in METRICS.values()]
    assert [float(cell) for cell in rows["eval_exact_match"]] == [m["eval_exact_match"] for m in METRICS.values()]
    assert [int(cell) for cell in rows["step"]] == list(METRICS)
