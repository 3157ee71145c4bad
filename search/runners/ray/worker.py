"""What runs in Ray's workers."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict
from typing import Any

import torch
from ray import tune

from petlas.search.runners.blame import is_of_surroundings, told
from petlas.search.runners.limit import Limit
from petlas.search.stages import open_work
from petlas.search.stages.base import Proposal
from petlas.search.training import Work
from petlas.search.workbench import shared_workbench

log = logging.getLogger("petlas")


class TrialWorker(tune.Trainable):
    """Does jobs of any run, one after the other: the actor stays, and with it backbones and decoded images."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin with the first job."""
        self.work: Work | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin with the next job."""
        self.work = None
        return True

    def step(self) -> dict[str, Any]:
        """One epoch; a fault of the candidate ends this trial alone, one of the surroundings is told as such."""
        if self.work is None:
            self._limit = Limit(self.config["limit"], end_process=True)
        try:
            with self._limit.watch():
                bench = shared_workbench(self.config["run"])
                if self.work is None:
                    torch.set_num_threads(bench.config.resources.cpus)
                    self.work = open_work(bench, Proposal.from_config(self.config))
                result = asdict(self.work.epoch()) | {"device": str(bench.device)}
        except Exception as error:
            log.exception("%s failed", self.config["work"])
            nothing = {"epoch": 0, "loss": math.nan, "val": math.nan, "seconds": 0.0}
            return nothing | {"error": told(error), "fault": is_of_surroundings(error), "done": True}
        return result | {"done": self.work.finished}
