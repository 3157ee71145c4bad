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
from ray.exceptions import RayError

from petlas.search.config import ResourcesConfig, RunConfig
from petlas.search.run_folder import RunError
from petlas.search.runners.ray.cluster import present
from petlas.search.runners.ray.devices import resolved, room
from petlas.search.runners.ray.head import Head, HeadLost
from petlas.search.runners.ray.jobs import FaultStopper, JobScheduler, JobSearch, Starts
from petlas.search.runners.ray.notices import notices_to_log
from petlas.search.runners.ray.start import Start
from petlas.search.runners.ray.supplier import Supplier, by_path, size_of
from petlas.search.runners.ray.worker import TrialWorker
from petlas.search.stages.rounds import Rounds
from petlas.search.workbench import Workbench

_LOOKS_EVERY = 2.0  # seconds


@contextmanager
def opened(
    benches: Sequence[Workbench],
    start: Start | None = None,
    views: Sequence[str] = ("trainval",),
    packs: bool = True,
) -> Iterator[RayRunner]:
    """A runner on Ray.

    Args:
        benches: Of the runs.
        start: Of a Ray that has begun to start, and that the caller ends.
        views: Whose images the work reads.
        packs: Whether trials may be trained at once.

    Raises:
        RunError: When there is no cluster, it has no room for a single trial, or none for what trials read.
    """
    resources = benches[0].config.resources
    with ExitStack() as stack:
        stack.enter_context(notices_to_log())
        others = (start or stack.enter_context(Start(resources.address))).wait()
        count = stack.enter_context(present()) if others else lambda: 1
        supplier = Supplier(by_path(resources.data, size_of(benches, views)))
        yield RayRunner([resolved(bench, supplier, packs) for bench in benches], supplier, count)


class RayRunner:
    """Does jobs on Ray.

    Args:
        configs: Of the runs, with what each worker is given.
        supplier: Hands workers what they need.
        drivers: How many drivers there are on the cluster now: each takes its part of it.

    Raises:
        RunError: When the cluster has no room for a single trial of one of the runs.
    """

    def __init__(
        self, configs: Sequence[RunConfig], supplier: Supplier, drivers: Callable[[], int] = lambda: 1
    ) -> None:
        self._resources = {config.folder: config.resources for config in configs}
        self._supplier, self._drivers = supplier, drivers
        for resources in self._resources.values():
            if room(resources) < 1:
                needs, has = f"{resources.cpus} CPUs and {resources.gpus or 0:g} GPUs", ray.cluster_resources()
                raise RunError(f"a trial needs {needs}, and Ray has {has}; lower resources.cpus or resources.gpus")
        self._part, self._looked, self._head = 0, -math.inf, Head.of_ray()
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # of workers that died the runs tell

    def run(self, rounds: Rounds) -> None:
        """Do jobs with Ray Tune until none is left."""
        while not rounds.over:  # again where a worker died when Tune had been told that nothing was left
            search = JobSearch(rounds, self._most, self._resources_of, self._supplier, self._head)
            with tempfile.TemporaryDirectory(prefix="petlas-tune-") as scratch:
                try:
                    self._tuner(search, scratch).fit()
                except HeadLost as lost:
                    search.on_head_lost(str(lost))
                except RuntimeError as error:  # Tune goes on after some ways in which a worker may end, not after all
                    if not isinstance(error.__cause__, RayError):
                        raise
                    search.on_break(error.__cause__)

    def _resources_of(self, config: RunConfig) -> ResourcesConfig:
        return self._resources[config.folder]

    def _most(self) -> int:
        """How many jobs may be done at once now: nodes and other drivers come and go."""
        if time.monotonic() - self._looked > _LOOKS_EVERY:
            self._head.look(now=True)  # who else is there is asked of it
            resources = list(self._resources.values())
            part = max(map(room, resources)) // max(1, self._drivers())
            self._part, self._looked = max(1, min(part, resources[0].concurrent or part)), time.monotonic()
        return self._part

    def _tuner(self, search: JobSearch, scratch: str) -> tune.Tuner:
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
                stop=FaultStopper(search.rounds, self._head),
                callbacks=[Starts(search)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # training keeps its own
                verbose=0,
            ),
        )
