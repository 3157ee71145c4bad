"""Stages that are no searches, done by the runner of their runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import attrgetter

from petlas.search.live import watched
from petlas.search.runners import open_runner
from petlas.search.stages.base import Stage
from petlas.search.stages.rounds import Rounds, Turns


def do_stages(stages: Sequence[Stage], jobs: int) -> None:
    """Do what is left of stages, each of a run of its own, by the runner of the runs.

    Args:
        stages: One of each run, whose folder this process holds.
        jobs: How many pieces of work there are at most.

    Raises:
        Exception: Why the first of the runs that stopped did so.
    """
    name = attrgetter("bench.config.name") if len(stages) > 1 else lambda stage: ""
    runs = [Turns(stage.bench, partial(iter, [stage]), name(stage)) for stage in stages]
    rounds = Rounds(runs)
    if not rounds.over:
        views = dict.fromkeys(view for stage in stages for view in stage.views)
        benches = [stage.bench for stage in stages]
        with watched(runs, jobs), open_runner(benches, views=tuple(views), jobs=jobs) as runner:
            runner.run(rounds)
    for run in runs:
        if run.error is not None:
            raise run.error
