"""What runs in Ray's workers."""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from ray import tune

from petlas.search.run_files import Carried
from petlas.search.runners.blame import blame, is_of_surroundings, told
from petlas.search.runners.limit import Limit
from petlas.search.runners.ray.pack import PackWork
from petlas.search.runners.ray.supplier import Sent, enter
from petlas.search.stages import open_work
from petlas.search.stages.base import Proposal
from petlas.search.training import Work, device_name
from petlas.search.workbench import Workbench, shared_workbench

log = logging.getLogger("petlas")


class TrialWorker(tune.Trainable):
    """Does jobs of any run, one or several at once: the actor stays, and with it backbones and decoded images."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin with the first job."""
        self.work: Work | PackWork | None = None
        self._files = Carried({})

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
                enter(self.config["place"])
                bench = shared_workbench(self.config["run"], self.config["supplies"])
                if self.work is None:
                    bench.files = self._files = Carried(self.config["files"])
                    torch.set_num_threads(bench.config.resources.cpus)
                    self.work = self._opened(bench)
                result = self._epoch(self.work) | {"device": device_name(bench.device)}
        except Exception as error:
            log.exception("%s failed", self.config["work"])
            nothing = {"epoch": 0, "loss": math.nan, "val": math.nan, "seconds": 0.0, "done": True}
            return nothing | {"error": self._told(error)} | blame(error)
        return result | {"done": self.work.finished, "sent": Sent(self._files.unsent())}

    def join(self, proposals: Sequence[dict[str, Any]], files: Mapping[str, bytes]) -> None:
        """Have further jobs join several.

        Args:
            proposals: What is proposed, as plain data.
            files: What they may read of the run folder.
        """
        if isinstance(self.work, PackWork):
            self._files.bring(files)
            self.work.add(map(Proposal.from_config, proposals))

    def drop(self, numbers: Sequence[int]) -> None:
        """Go on without some of several jobs.

        Args:
            numbers: Theirs, in their order.
        """
        if isinstance(self.work, PackWork):
            self.work.drop(numbers)

    def _opened(self, bench: Workbench) -> Work | PackWork:
        first, beside = Proposal.from_config(self.config), self.config.get("beside", ())
        if not beside:
            return open_work(bench, first)
        return PackWork(bench, [first, *map(Proposal.from_config, beside)])

    @staticmethod
    def _epoch(work: Work | PackWork) -> dict[str, Any]:
        if isinstance(work, PackWork):
            return {"members": work.epoch(), "val": math.nan}  # Tune asks for the latter
        return asdict(work.epoch())

    def _told(self, error: Exception) -> str:
        """What failed; where every node is to see the driver's files, on which it did."""
        if self.config["place"] is None or not is_of_surroundings(error):
            return told(error)
        return (
            f"node {socket.gethostname()}: {told(error)}; with resources.data=path every node must see the driver's "
            "files, and resources.data=object_store hands them over"
        )
