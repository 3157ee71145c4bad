import logging
import math
from collections.abc import Callable
from typing import Any

import pytest

from petlas.datasets import DataError
from petlas.petl.design import Design
from petlas.search.config import RunConfig
from petlas.search.runners.ray import worker as worker_module
from petlas.search.runners.ray.supplier import Delivered
from petlas.search.runners.ray.worker import TrialWorker
from petlas.search.stages.base import Proposal
from petlas.search.stages.train import whole
from petlas.search.study import SEARCH
from petlas.search.training import EpochResult
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

Make = Callable[..., RunConfig]
NOTHING = {"supplies": Delivered(()), "files": Delivered(()), "place": None}


@pytest.fixture
def worker(make: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrialWorker]:
    """Tune's worker in this process, which does what `open_work` is replaced by."""
    monkeypatch.setattr(logging.getLogger("petlas"), "disabled", True)

    def worker(open_work: Callable[..., Any], proposal: Proposal) -> TrialWorker:
        monkeypatch.setattr(worker_module, "open_work", open_work)
        found: TrialWorker = object.__new__(TrialWorker)
        found.config = about(proposal, make())
        found.setup(found.config)
        return found

    return worker


def about(proposal: Proposal, config: RunConfig) -> dict[str, Any]:
    """What travels to a worker."""
    return proposal.to_config() | {"run": config.model_dump_json(), "needs": {"CPU": 1}, "limit": None} | NOTHING


def proposal(bench: Workbench, number: int, design: Design) -> Proposal:
    return Proposal(number, whole(bench, Candidate(design), SEARCH), "train")


def test_a_fault_of_a_design_fails_this_trial_and_the_worker_stays(
    worker: Callable[..., TrialWorker], bench: Callable[..., Workbench], lora: Callable[..., Design]
) -> None:
    class Fragile:
        def __init__(self, bench: Workbench, proposal: Proposal) -> None:
            if proposal.entry.candidate.design.placements:
                raise MemoryError("too large")
            self.finished = True

        def epoch(self) -> EpochResult:
            return EpochResult(1, 1.0, 0.5, 0.1)

    found = worker(Fragile, proposal(bench(), 0, lora(b0=1)))
    result = found.step()
    assert result["done"]
    assert (result["error"], result["fault"]) == ("MemoryError: too large", False)
    assert math.isnan(result["val"])
    found.config = about(proposal(bench(), 1, lora()), bench().config)
    assert found.reset_config(found.config)
    result = found.step()
    assert (result["done"], result["val"], result["device"]) == (True, 0.5, "cpu")
    assert "error" not in result


def test_a_fault_of_the_surroundings_is_told_as_such(
    worker: Callable[..., TrialWorker], bench: Callable[..., Workbench], lora: Callable[..., Design]
) -> None:
    def gone(bench: Workbench, proposal: Proposal) -> None:
        raise DataError("image 7 is cut off")

    result = worker(gone, proposal(bench(), 0, lora(b0=1))).step()
    assert (result["done"], result["error"], result["fault"]) == (True, "image 7 is cut off", True)
