"""The stage that measures what the training steps of designs cost, for runs whose work is done elsewhere."""

from __future__ import annotations

import json
from collections.abc import Sequence

from petlas.files import json_bytes
from petlas.search.cost_model import FILE, Shares, cost_model, kept_shares, measure_shares
from petlas.search.run_files import Carried
from petlas.search.runners.place import elsewhere
from petlas.search.stages.base import Chore, Proposal
from petlas.search.stages.doing import do_stages
from petlas.search.stages.once import Once
from petlas.search.training import Work
from petlas.search.workbench import Workbench


class CostsStage(Chore):
    """Measures once; nothing is written into the run folder, which may not be there yet.

    Args:
        bench: A workbench of the run that nothing else is done on.
    """

    work = "costs"
    views = ()

    def __init__(self, bench: Workbench) -> None:
        super().__init__(bench, needed=True)
        bench.files = Carried({})

    def found(self) -> Shares:
        """What was measured."""
        shares: Shares = json.loads(self.bench.files.read(FILE) or b"{}")
        return shares


def open_costs(bench: Workbench, proposal: Proposal) -> Work:
    """The measurement of what steps cost.

    Args:
        bench: The run's workbench.
        proposal: Says no more than that.
    """
    return Once(lambda: bench.files.write(FILE, json_bytes(measure_shares(bench))))


def costs_of_cluster(benches: Sequence[Workbench]) -> None:
    """Let what steps cost be measured where the work of the runs is done, if that is a cluster: it has other devices.

    Args:
        benches: Of the runs; those of a folder that keeps it are told that.

    Raises:
        UserError: When there is no cluster, or a backbone or a task is at fault.
    """
    far = [bench for bench in benches if elsewhere(bench.config)]
    todo = [bench for bench in far if kept_shares(bench) is None]
    stages = [CostsStage(Workbench(bench.config)) for bench in todo]
    do_stages(stages, jobs=len(stages))
    for bench, stage in zip(todo, stages, strict=True):
        bench.costs = cost_model(bench, stage.found())
