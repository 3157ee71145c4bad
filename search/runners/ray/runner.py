"""Does jobs with Ray Tune."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import ray
from ray import tune

from petlas.search.config import ResourcesConfig, RunConfig
from petlas.search.run_folder import RunError
from petlas.search.runners.ray.cluster import connected, present
from petlas.search.runners.ray.jobs import FaultStopper, JobScheduler, JobSearch, Starts
from petlas.search.runners.ray.start import Start
from petlas.search.runners.ray.worker import TrialWorker
from petlas.search.stages.rounds import Rounds

_LOOKS_EVERY = 2.0  # seconds


@contextmanager
def opened(configs: Sequence[RunConfig], start: Start | None = None) -> Iterator[RayRunner]:
    """A runner on Ray.

    Args:
        configs: Of the runs.
        start: Of a Ray that has begun to start, and that the caller ends.

    Raises:
        RunError: When there is no cluster, or it has no room for a single trial.
    """
    with ExitStack() as stack:
        others = start.wait() if start else stack.enter_context(connected(configs[0].resources.address))
        count = stack.enter_context(present()) if others else lambda: 1
        yield RayRunner(configs, count)


class RayRunner:
    """Does jobs on Ray.

    Args:
        configs: Of the runs.
        drivers: How many drivers there are on the cluster now: each takes its part of it.

    Raises:
        RunError: When the cluster has no room for a single trial of one of the runs.
    """

    def __init__(self, configs: Sequence[RunConfig], drivers: Callable[[], int] = lambda: 1) -> None:
        self._resources, self._drivers = [config.resources for config in configs], drivers
        for resources in self._resources:
            if _room(resources) < 1:
                needs, has = f"{resources.cpus} CPUs and {resources.gpus:g} GPUs", ray.cluster_resources()
                raise RunError(f"a trial needs {needs}, and Ray has {has}; lower resources.cpus or resources.gpus")
        self._part, self._looked = 0, -math.inf
        logging.getLogger("ray.tune").setLevel(logging.ERROR)

    def run(self, rounds: Rounds) -> None:
        """Do jobs with Ray Tune until none is left."""
        while not rounds.over:  # again where a worker died when Tune had been told that nothing was left
            with tempfile.TemporaryDirectory(prefix="petlas-tune-") as scratch:
                self._tuner(rounds, scratch).fit()

    def _most(self) -> int:
        """How many jobs may be done at once now: nodes and other drivers come and go."""
        if time.monotonic() - self._looked > _LOOKS_EVERY:
            room = max(map(_room, self._resources)) // max(1, self._drivers())
            self._part, self._looked = max(1, min(room, self._resources[0].concurrent or room)), time.monotonic()
        return self._part

    def _tuner(self, rounds: Rounds, scratch: str) -> tune.Tuner:
        search = JobSearch(rounds, self._most)
        return tune.Tuner(
            tune.with_resources(TrialWorker, lambda config: tune.PlacementGroupFactory([config["needs"]])),
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=JobScheduler(search),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                stop=FaultStopper(rounds),
                callbacks=[Starts(search)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # training keeps its own
                verbose=0,
            ),
        )


def _room(resources: ResourcesConfig) -> int:
    """How many trials of a run the cluster has room for."""
    has = ray.cluster_resources()
    needs = {"CPU": resources.cpus, "GPU": resources.gpus}
    return min(int(has.get(name, 0) / amount) for name, amount in needs.items() if amount)
