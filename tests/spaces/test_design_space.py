from __future__ import annotations

import pytest
from hypothesis import given
from space_cases import NOAH, NOAH_DEPTH, Case, cases, cost, quick

from petlas.petl.design import Design, Placement
from petlas.spaces import Budget, DepthRule, Dimension, Space, SpaceError


@quick
@given(cases())
def test_count_and_enumeration_agree_with_brute_force(case: Case):
    found = [design.key for design in case.space.designs(Budget())]
    assert len(found) == len(set(found)) == case.space.count() == len(case.every)
    assert set(found) == {design.key for design in case.every}


@quick
@given(cases())
def test_choices_name_each_design_once(case: Case):
    names = set()
    for design in case.every:
        assert design in case.space
        assert case.space.design(case.space.choices(design)) == design
        assert case.space.at(case.space.point(design)) == design
        names.add(case.space.point(design))
    assert len(names) == len(case.every)


@quick
@given(cases())
def test_smallest_and_largest_bound_every_cost(case: Case):
    costs = [cost(design) for design in case.every]
    assert (cost(case.space.smallest), cost(case.space.largest)) == (min(costs), max(costs))


def test_the_spaces_of_noah_have_their_number_of_designs():
    assert NOAH.space.count() == 4**36
    assert NOAH_DEPTH.space.count() == (3**3 + 3**6 + 3**9 + 3**12) ** 3


def test_designs_carry_the_backbone_and_refuse_another():
    space = Space.from_dict({"methods": {"lora": {"blocks": "all", "sizes": [1, 2]}}}, 2, backbone="vit_a")
    assert space.smallest.backbone == "vit_a"
    assert Design(space.smallest.placements) in space
    with pytest.raises(SpaceError, match="for vit_a, but the design was made for vit_b"):
        space.choices(Design(space.smallest.placements, "vit_b"))


@pytest.mark.parametrize(
    ("placements", "message"),
    [
        ([Placement("lora", 0, 3), Placement("lora", 1, 4)], r"lora.0 is .*'size': 3.* allows"),
        ([Placement("lora", 0, 4), Placement("lora", 1, 4)], r"depth.lora: lora must fill .* \(0, 1\) blocks: xx"),
        ([Placement("lora", 1, 4)], r"depth.lora: .* blocks: -x"),
        ([Placement("lorra", 1, 4)], r"no lorra.1: did you mean 'lora.1'"),
        ([Placement("lora", 2, 4)], r"no lora.2: did you mean"),
        ([Placement("ssf", None, 4)], r"ssf is .*'size': 4"),
        ([Placement("ssf", None, None, (("scale", 2),))], r"ssf is .*'scale': 2"),
        ([], r"vpt.0 is absent"),
    ],
)
def test_a_design_outside_the_space_is_refused_with_its_reason(placements: list[Placement], message: str):
    methods = {"lora": {"blocks": "all", "sizes": [0, 4]}, "ssf": {"blocks": "backbone"}}
    if not placements:
        methods["vpt"] = {"blocks": [0], "sizes": [1, 2]}
    space = Space.from_dict({"methods": methods, "depth": {"lora": [0, 1]}}, 2)
    design = Design.of(placements)
    assert design not in space
    with pytest.raises(SpaceError, match=message):
        space.choices(design)


@pytest.mark.parametrize("choices", [[0], [0, 4], [-1, 0], [0, 0, 0]])
def test_choices_out_of_range_are_refused(choices: list[int]):
    space = Space.from_dict({"methods": {"lora": {"blocks": "all", "sizes": [0, 1, 5, 10]}}}, 2)
    with pytest.raises(SpaceError, match="choices"):
        space.design(choices)


def test_hand_made_spaces_are_checked():
    lora = Dimension("lora", 0, (0, 4))
    with pytest.raises(SpaceError, match=r"'lora\.0' twice"):
        Space((lora, lora))
    with pytest.raises(SpaceError, match="at most 1 blocks"):
        Space((lora,), (DepthRule("lora", (2,)),))
    with pytest.raises(SpaceError, match="each with size 0"):
        Space((Dimension("lora", 0, (1, 4)),), (DepthRule("lora", (1,)),))


@quick
@given(cases())
def test_an_impossible_budget_names_the_least_limit_that_works(case: Case):
    least = min(cost(design) for design in case.every)
    case.space.check_budget(Budget(least, cost))
    if least:
        with pytest.raises(SpaceError, match=rf"budget of {least - 1}.*raise the limit to at least {least},"):
            case.space.check_budget(Budget(least - 1, cost))
