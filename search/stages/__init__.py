"""The stages of searches, and the kinds of work that they propose. To add a kind of work: write it, add its line.

Functions are looked up when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from petlas.lazy import look_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from petlas.search.stages.base import Proposal
    from petlas.search.stages.packed import PackedRuns
    from petlas.search.training import Work
    from petlas.search.workbench import Workbench

WORKS: dict[str, str] = {
    "train": "petlas.search.stages.train:open_training",
    "score": "petlas.search.stages.score:open_scoring",
    "supernet": "petlas.search.stages.supernet:open_supernet",
    "sensitivity": "petlas.search.stages.sensitivity:open_measuring",
    "measure": "petlas.search.stages.measure:open_prices",
    "costs": "petlas.search.stages.costs:open_costs",
    "retrain": "petlas.search.stages.retrain:open_retraining",
}


def open_work(bench: Workbench, proposal: Proposal) -> Work:
    """Begin what was proposed, in the process that does it.

    Args:
        bench: The run's workbench.
        proposal: The work.
    """
    work: Work = look_up(WORKS[proposal.work])(bench, proposal)
    return work


def open_packed(bench: Workbench, proposals: Sequence[Proposal]) -> PackedRuns:
    """Begin trials that were proposed by a stage whose `pack` allows as many, in the process that does them.

    Args:
        bench: The run's workbench.
        proposals: The trials.
    """
    packed: PackedRuns = look_up("petlas.search.stages.packed:PackedRuns")(bench, proposals)
    return packed


__all__ = ["WORKS", "open_packed", "open_work"]
