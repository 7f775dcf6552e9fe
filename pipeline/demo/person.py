"""What a person does in MLflow, by MLflow's own client: nothing of Relay is used to move the alias."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline.mlflow_pages import compare_link
from registry_hooks import contract
from registry_hooks.errors import RegistryError

TRAINING_SOURCE = "pipeline.demo.training"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A version in MLflow's list; `reason` is empty until there is a verdict on it."""

    step: int
    published_at: datetime
    state: str
    reason: str
    is_judged: bool


def _seen(version: ModelVersion) -> Seen:
    tags = version.tags
    return Seen(
        step=int(tags.get(contract.TAG_STEP, "0")),
        published_at=datetime.fromtimestamp(version.creation_timestamp / 1000, UTC),
        state=tags.get(contract.TAG_STATE, ""),
        reason=tags.get(contract.TAG_REASON, ""),
        is_judged=contract.TAG_JUDGED in tags or tags.get(contract.TAG_STATE) == contract.STATE_REJECTED,
    )


class Person:
    """Somebody at the keyboard, with an `MlflowClient`."""

    def __init__(self, tracking_uri: str, name: str) -> None:
        self._client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        self._tracking_uri = tracking_uri
        self._name = name

    def begin_training(self, experiment: str, run_name: str) -> str:
        """A run for the training's curves; its id."""
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
        tags = {"mlflow.source.name": TRAINING_SOURCE, "mlflow.source.type": "LOCAL"}
        run_id: str = self._client.create_run(experiment_id, run_name=run_name, tags=tags).info.run_id
        return run_id

    def versions(self) -> dict[int, Seen]:
        """All versions by number, as the UI shows them; none while there is no such model."""
        found = self._client.search_model_versions(f"name='{self._name}'")
        return {int(one.version): _seen(one) for one in found}

    def production(self, alias: str) -> int | None:
        """The version that the alias names."""
        try:
            return int(self._client.get_model_version_by_alias(self._name, alias).version)
        except MlflowException:
            return None

    def hold(self) -> str | None:
        """The registered model's tag that says who holds the alias, and why."""
        value: str | None = self._client.get_registered_model(self._name).tags.get(contract.TAG_HOLD)
        return value

    def move(self, alias: str, version: int) -> datetime:
        """Point `alias` at `version`, as one does in the UI or in a notebook; when that was asked for.

        Raises:
            RegistryError: MLflow refused.
        """
        asked_at = datetime.now(UTC)
        try:
            self._client.set_registered_model_alias(self._name, alias, str(version))
        except MlflowException as error:
            raise RegistryError(f"MLflow did not move {alias} to version {version}: {error}") from error
        return asked_at

    def compare_link(self, versions: list[int]) -> str:
        """The page of MLflow that shows these versions side by side, in the mode that shows metrics."""
        runs = {str(one): self._client.get_model_version(self._name, str(one)).run_id for one in versions}
        return compare_link(self._tracking_uri, self._name, runs)
