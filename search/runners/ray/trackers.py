"""Trackers of experiments, through the callbacks that Ray Tune has for them; none of them sends anything anywhere.

A server is told only where the environment names one, by the variables that each tracker has for that. Ray is imported
when a callback is made.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from ray.tune.logger import LoggerCallback


class Tracker(ABC):
    """What a run's trainings are told to.

    Args:
        run: The name of the run.
        folder: Its own place, in the run folder.
        beside: The folder that holds the run folders.
    """

    package: ClassVar[str]
    """The package that has to be installed, as it is imported."""
    needs_ray: ClassVar[bool] = False
    """Whether its callback works in actors of Ray."""

    def __init__(self, run: str, folder: Path, beside: Path) -> None:
        self.run, self.folder, self.beside = run, folder, beside

    @abstractmethod
    def callback(self) -> LoggerCallback:
        """Ray's callback, set up."""

    @property
    @abstractmethod
    def look(self) -> str:
        """What shows what was tracked."""

    def named(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters under names that it takes.

        Args:
            params: By petlas's names, such as `lora@3`.
        """
        return dict(params)


class TensorBoard(Tracker):
    """Event files of TensorBoard, a folder for each trial."""

    package = "tensorboardX"

    def callback(self) -> LoggerCallback:
        """Ray's, which writes with tensorboardX."""
        from ray.tune.logger import TBXLoggerCallback

        return TBXLoggerCallback()

    @property
    def look(self) -> str:
        """The viewer, which listens on this machine alone."""
        return f"tensorboard --logdir {self.folder}"


class WeightsAndBiases(Tracker):
    """Runs of Weights & Biases, kept in files unless WANDB_MODE says `online`."""

    package, needs_ray = "wandb", True

    def callback(self) -> LoggerCallback:
        """Ray's, with an actor for each trial."""
        from ray.air.integrations.wandb import WandbLoggerCallback

        before = os.environ.get("WANDB_MODE")
        os.environ["WANDB_MODE"] = mode = before or "offline"
        try:
            project = os.environ.get("WANDB_PROJECT", "petlas")
            found = WandbLoggerCallback(project=project, group=self.run, dir=str(self.folder.absolute()), mode=mode)
            found.setup()  # asks for a key unless the mode is offline
        finally:
            if before is None:
                del os.environ["WANDB_MODE"]
        return found

    @property
    def look(self) -> str:
        """What uploads it."""
        return f"wandb sync {self.folder}/wandb/offline-run-*"


class MLflow(Tracker):
    """Runs of MLflow, an experiment a search, in a file beside the run folders or where MLFLOW_TRACKING_URI says.

    A process has one place for all its runs.
    """

    package = "mlflow"

    def callback(self) -> LoggerCallback:
        """Ray's, in this process."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        found = MLflowLoggerCallback(self._uri, experiment_name=self.run)
        found.setup()
        return found

    @property
    def _uri(self) -> str:
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.beside.absolute() / 'mlflow.db'}"

    @property
    def look(self) -> str:
        """The viewer, which listens on this machine alone."""
        return f"mlflow ui --backend-store-uri {self._uri}"

    def named(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """MLflow takes no @.

        Args:
            params: By petlas's names.
        """
        return {name.replace("@", "/"): value for name, value in params.items()}
