from __future__ import annotations

from collections.abc import Callable

import pytest

from petlas.petl import Design, Placement
from petlas.search.timed_steps import StepCost, TimedSteps
from petlas.search.workbench import Workbench

Bench = Callable[..., Workbench]
TOKENS, WIDTH = 2 * 2 + 1, 128


def lora(*blocks: int) -> Design:
    return Design.of([Placement("lora", block, 4) for block in blocks], "vit_mini_patch16_64")


def block_flops() -> int:
    """A forward pass of one block for one image: q, k, v, two products of attention, projection and MLP."""
    return 2 * TOKENS * WIDTH * (3 * WIDTH + WIDTH + 8 * WIDTH) + 2 * 2 * TOKENS * TOKENS * WIDTH


def test_operations_are_those_of_the_formulas_and_kept_blocks_cost_nothing(bench: Bench) -> None:
    train = {"batch_size": 8, "amp": "off"}
    steps, whole = TimedSteps(bench(train=train)), TimedSteps(bench(train=train, resources={"cache_gb": 0}))
    first, last, run = steps.measure(lora(3)), steps.measure(lora(5)), whole.measure(lora(5))
    assert run.flops - last.flops == 5 * block_flops() + 2 * 4 * 16 * 16 * 3 * WIDTH  # and the patch embedding
    per_block = (first.flops - last.flops) / 2
    assert 1.9 * block_flops() < per_block < 2.3 * block_flops()  # forward, and backward to the inputs
    assert steps.measure(lora(5)).flops == last.flops
    needed = 4 * TOKENS * WIDTH * (4 + 2)  # the GELU's input and those of both norms, at least
    assert 2 * needed < first.bytes - last.bytes < 8 * needed
    assert 0 < last.seconds < first.seconds < 60


def test_only_what_the_backward_pass_needs_is_counted_as_memory(bench: Bench) -> None:
    """The head's input, and the softmax of its outputs, of linear probing; nothing of the blocks."""
    linear = TimedSteps(bench(train={"batch_size": 8, "amp": "off"})).measure(Design(()))
    assert 4 * WIDTH <= linear.bytes < 4 * 40 * WIDTH


def test_the_stamp_names_what_a_step_depends_on(bench: Bench) -> None:
    stamp = TimedSteps(bench()).stamp()
    for groups in ({"train": {"batch_size": 8}}, {"train": {"augment": "flip"}}, {"resources": {"cpus": 2}}):
        assert TimedSteps(bench(**groups)).stamp() != stamp
    assert TimedSteps(bench(train={"lr": 3e-3})).stamp() == stamp


def test_the_quickest_of_several_rounds_counts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While others are at work, as in the first round, all steps are slow."""
    order: list[Design] = []

    def measure(steps: TimedSteps, design: Design) -> StepCost:
        order.append(design)
        return StepCost(1.0, 9.0 if len(order) <= 2 else float(len(design.placements)), 2.0)

    monkeypatch.setattr(TimedSteps, "measure", measure)
    designs = [lora(5), lora(3, 4)]
    assert TimedSteps(bench()).measure_all(designs) == [StepCost(1.0, 1.0, 2.0), StepCost(1.0, 2.0, 2.0)]
    assert order[:2] == designs and len(order) % 2 == 0 and order[2:4] == designs
