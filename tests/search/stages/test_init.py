import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from petlas.petl import Design
from petlas.search.stages import WORKS, open_work
from petlas.search.stages.base import Proposal
from petlas.search.study import SCORE, SEARCH, Entry
from petlas.search.training import Fidelity
from petlas.spaces import Candidate


def test_each_kind_of_work_is_opened_by_its_function(
    lora: Callable[..., Design], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, Any, Proposal]] = []
    monkeypatch.setattr("petlas.search.stages.train.open_training", lambda *args: opened.append(("train", *args)))
    monkeypatch.setattr("petlas.search.stages.score.open_scoring", lambda *args: opened.append(("score", *args)))
    proposals = [
        Proposal(0, Entry(Candidate(lora(b0=1)), Fidelity(2, 0), SEARCH, 512), "train"),
        Proposal(1, Entry(Candidate(lora(b0=1)), Fidelity(0, 0), SCORE, 512), "score"),
    ]
    for proposal in proposals:
        open_work("bench", proposal)  # type: ignore[arg-type]
    assert opened == [("train", "bench", proposals[0]), ("score", "bench", proposals[1])]
    assert set(WORKS) == {"train", "score", "supernet", "sensitivity", "measure", "costs", "retrain"}


def test_the_list_of_works_comes_without_torch() -> None:
    code = "import sys, petlas.search.stages\nprint('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
