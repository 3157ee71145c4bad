import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from petlas.petl import count_params, shape_by_name
from petlas.petl.shape import BackboneShape, BlockTensor, block_tensors
from petlas.search.config import SensitivityConfig
from petlas.search.sensitivity.allocation import Allocation, Ranking, allocate, allocate_all, rank_entries

MINI = "vit_mini_patch16_64"
RULE = SensitivityConfig(alpha=10, beta=5)
MATRIX = BlockTensor("q", "blocks.0.attn.qkv.weight", 0, 10, 10)
OTHER = BlockTensor("proj", "blocks.0.attn.proj.weight", 0, 10, 10)
VECTOR = BlockTensor("norm1.bias", "blocks.0.norm1.bias", 0, 1, 10)
COSTS = [40, 40, 10]  # so that 4 entries of a matrix are enough for its module, and 2 of the vector for all of it


def in_order(order: str, complete: bool = False) -> Ranking:
    """The ranking of entries of the matrix (m), the other one (o) and the vector (v)."""
    return Ranking((MATRIX, OTHER, VECTOR), np.array(["mov".index(owner) for owner in order]), complete)


def spent(allocation: Allocation) -> int:
    modules = sum(COSTS[[MATRIX, OTHER].index(tensor)] for tensor in allocation.modules)
    return modules + sum(t.entries for t in allocation.whole) + sum(allocation.entries.values())


@pytest.mark.parametrize(
    ("order", "budget", "modules", "whole", "entries"),
    [
        ("mmmooo", 5, "", "", {"m": 3, "o": 2}),  # too few of any: entry by entry
        ("mmmmoo", 42, "m", "", {"o": 2}),  # the fourth entry brings a module of 40, and its entries are free
        ("mmmmmmoo", 41, "m", "", {"o": 1}),  # further entries of a matrix with a module cost nothing
        ("mmmmoo", 6, "", "", {"m": 4, "o": 2}),  # no budget for the module: the matrix goes on entry by entry
        ("mmmmooo", 39, "", "", {"m": 4, "o": 3}),  # one parameter short of it
        ("vvm", 11, "", "v", {"m": 1}),  # a fifth of the vector: all of it
        ("vvm", 3, "", "", {"v": 2, "m": 1}),  # no budget for all of it
        ("mmmmoooovv", 55, "m", "v", {"o": 4}),  # the second module does not fit any more, but the vector does
        ("m", 0, "", "", {}),
    ],
)
def test_the_rule_on_examples_worked_by_hand(order, budget, modules, whole, entries):
    names = dict(zip("mov", (MATRIX, OTHER, VECTOR), strict=True))
    found = allocate(in_order(order, complete=True), COSTS, budget, RULE)
    assert found.modules == {names[x] for x in modules}
    assert found.whole == {names[x] for x in whole}
    assert found.entries == {names[x]: count for x, count in entries.items()}


def test_the_tensor_that_reaches_its_threshold_first_gets_the_module():
    found = allocate(in_order("momomomo", complete=True), COSTS, 45, RULE)
    assert found.modules == {MATRIX}
    assert spent(found) == 44  # there are no more than 4 entries of the other


def test_what_a_ranking_is_too_short_for_is_left():
    assert allocate(in_order("mmoo"), COSTS, 5, RULE).left == 1
    assert allocate(in_order("mmoo"), COSTS, 4, RULE).left == 0


def test_a_ranking_that_grows_gives_what_the_whole_one_gives():
    shape = shape_by_name(MINI)
    values = random_sensitivities(shape, 0)
    first = next(t for t in values if t.name == "fc1")
    values[first] += 1e9  # all of its 65,536 entries come first
    budgets, rule = [6_000, 20_000, 50_000], SensitivityConfig()
    grown = allocate_all(values, shape, budgets, rule)
    tensors, whole = tuple(values), rank_entries(values, 10**9)
    costs = [t.entries if t.is_vector else 8 * (t.rows + t.columns) for t in tensors]
    at_once = [allocate(whole, costs, budget, rule).design(shape, "lora", 8) for budget in budgets]
    assert whole.complete and grown == at_once


def test_a_module_that_costs_more_than_its_matrix_is_not_used():
    found = allocate(in_order("m" * 100, complete=True), [110, 40, 10], 100, RULE)
    assert not found.modules and found.entries == {MATRIX: 100}


def plain(order: list[int], costs: list[int], lengths: list[int], vectors: list[bool], budget: int) -> int:
    """What the rule spends, entry by entry, in the plainest way."""
    counts, single, total = [0] * len(costs), [True] * len(costs), 0
    for owner in order:
        if not single[owner]:
            counts[owner] += 1
            continue
        if total == budget:
            break
        counts[owner] += 1
        total += 1
        need = max(1, math.ceil(costs[owner] / (RULE.beta if vectors[owner] else RULE.alpha)))
        if counts[owner] == need and costs[owner] <= lengths[owner] and total - need + costs[owner] <= budget:
            single[owner], total = False, total - need + costs[owner]
    return total


@given(st.data())
@settings(deadline=None)
def test_the_rule_spends_what_taking_one_entry_after_the_other_spends(data):
    sides = data.draw(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=5))
    tensors = tuple(BlockTensor(f"t{i}", f"blocks.0.t{i}", 0, rows, columns) for i, (rows, columns) in enumerate(sides))
    lengths = [t.entries for t in tensors]
    costs = [n if t.is_vector else data.draw(st.integers(1, 40)) for t, n in zip(tensors, lengths, strict=True)]
    order = data.draw(st.permutations([i for i, n in enumerate(lengths) for _ in range(n)]))
    budget = data.draw(st.integers(0, sum(lengths)))
    found = allocate(Ranking(tensors, np.array(order), True), costs, budget, RULE)
    modules = sum(cost for t, cost in zip(tensors, costs, strict=True) if t in found.modules)
    total = modules + sum(t.entries for t in found.whole) + sum(found.entries.values())
    assert total == plain(order, costs, lengths, [t.is_vector for t in tensors], budget)
    assert total <= budget
    assert not (found.modules | found.whole) & found.entries.keys()


@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
@settings(deadline=None)
def test_the_ranking_is_that_of_a_sort_of_all_entries(seed, most):
    generator = torch.Generator().manual_seed(seed)
    values = {t: torch.rand(t.entries, generator=generator) ** 8 for t in (MATRIX, OTHER, VECTOR)}
    values[OTHER][:30] = values[MATRIX][5]  # ties
    ranking = rank_entries(values, most)
    owners = torch.cat([torch.full((len(v),), i) for i, v in enumerate(values.values())])
    order = torch.cat(list(values.values())).argsort(descending=True, stable=True)
    assert len(ranking.owners) >= min(most, 210)
    assert ranking.complete == (len(ranking.owners) == 210)
    np.testing.assert_array_equal(ranking.owners, owners[order[: len(ranking.owners)]].numpy())


def random_sensitivities(shape: BackboneShape, seed: int) -> dict[BlockTensor, torch.Tensor]:
    """Of tensors that differ by orders of magnitude, as real ones do; a million draws serve all, to be quick."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [t for block in range(shape.depth) for t in block_tensors(shape, block)]
    scales = 10 ** (2 * torch.randn(len(tensors), generator=generator))
    draws = torch.randn(2**20, generator=generator) ** 4
    return {
        t: scale * draws.repeat(t.entries // len(draws) + 1)[-t.entries :]
        for t, scale in zip(tensors, scales, strict=True)
    }


@pytest.mark.parametrize(
    ("backbone", "budgets", "module"),
    [
        (MINI, [500, 5_000, 20_000, 60_000], "lora"),
        (MINI, [500, 5_000, 20_000, 60_000], "linear_adapter"),
        ("vit_small_patch14_dinov2", [20_000, 50_000, 100_000, 200_000, 400_000], "lora"),
    ],
)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=2, deadline=None)
def test_every_budget_is_used_up_within_one_percent_and_never_exceeded(backbone, budgets, module, seed):
    shape = shape_by_name(backbone)
    rule = SensitivityConfig.model_validate({"module": module})
    for budget, design in zip(
        budgets, allocate_all(random_sensitivities(shape, seed), shape, budgets, rule), strict=True
    ):
        assert 0.99 * budget <= count_params(design, shape) <= budget


def test_the_seven_budgets_of_spt_are_used_up_on_vit_b():
    shape, budgets = shape_by_name("vit_base_patch16_224"), [50_000, 100_000, 200_000, 400_000, 600_000, 800_000]
    designs = allocate_all(random_sensitivities(shape, 0), shape, budgets, SensitivityConfig())
    assert [count_params(design, shape) for design in designs] == budgets
    assert any("lora" in design.by_method for design in designs)
