"""Trainings on compiled blocks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from study_cases import few_images

from petlas.petl import CompiledBlocks, Design, Placement, can_compile
from petlas.search.config import TrainConfig
from petlas.search.stages.training_run import TrainingRun
from petlas.search.training import Fidelity, compiling
from petlas.search.training.compiling import compiled_blocks
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

Bench = Callable[..., Workbench]


def test_it_is_asked_for_and_auto_is_on_where_there_is_a_gpu() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    found = {
        (how, d): compiled_blocks(TrainConfig(compile=how), d) for how in ("auto", "on", "off") for d in (cpu, gpu)
    }  # type: ignore[arg-type]
    assert {key for key, blocks in found.items() if blocks} == {("auto", gpu), ("on", cpu), ("on", gpu)}


def test_a_torch_that_mixes_up_graphs_compiles_none_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiling, "can_compile", lambda: False)
    with caplog.at_level(logging.WARNING, "petlas"):
        assert compiled_blocks(TrainConfig(compile="on"), torch.device("cpu")) is None
    assert len(caplog.messages) == 1 and "not compiled: torch" in caplog.text


@pytest.mark.skipif(not can_compile(), reason="this torch mixes up graphs")
def test_trials_learn_the_same_and_make_no_graph_that_an_earlier_one_has_made(bench: Bench) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    def trained(rank: int, compiled: CompiledBlocks | None) -> tuple[float, float]:
        work = few_images(bench(train={"epochs": 1, "batch_size": 20, "amp": "off"}), 28, 12)
        vars(work)["compiled"] = compiled
        design = Design.of([Placement("lora", 5, rank)], work.shape.name)
        result = TrainingRun(work, Candidate(design), Fidelity(1, 0)).epoch()
        return result.loss, result.val

    torch._dynamo.reset()
    blocks, made = CompiledBlocks(pytest.fail, backend), []
    for rank in (2, 4, 3):
        assert trained(rank, blocks) == pytest.approx(trained(rank, None), abs=1e-5)
        made.append(len(graphs))
    torch._dynamo.reset()
    assert 0 < made[0] <= made[1] == made[2]
