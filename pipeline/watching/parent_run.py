"""The training's own run in MLflow, which a callback of the HF Trainer finds in its thread."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from registry_hooks import events
from registry_hooks.tracking_uri import same_server


@dataclass(slots=True)
class ParentRun:
    """Looks for the run that this thread logs to, if MLflow is in use and its server is ours.

    Args:
        tracking_uri: Where checkpoints are published.
    """

    tracking_uri: str
    _told: set[str] = field(default_factory=set)

    def find(self) -> str | None:
        """Its id; None without one, or where our registry would not know it, which is said once."""
        mlflow = sys.modules.get("mlflow")  # whoever logs to it has imported it; nobody else should pay for the import
        run = mlflow.active_run() if mlflow is not None else None
        if mlflow is None or run is None:
            return None
        server, run_id = str(mlflow.get_tracking_uri()), str(run.info.run_id)
        if same_server(server, self.tracking_uri):
            return run_id
        if run_id not in self._told:
            self._told.add(run_id)
            events.logger().warning(
                "parent_run.elsewhere",
                run=run_id,
                because=f"MLflow's run is on {server} and checkpoints are published to {self.tracking_uri}: they get a "
                "run of their own; set MLFLOW_TRACKING_URI to the same address, or registry.tracking_uri",
            )
        return None
