from __future__ import annotations

import pytest

from petlas.spaces import Space, SpaceError, check_space, parse_blocks
from petlas.spaces.places import sizes_at

SWIN = ((2, 96), (2, 192), (6, 384), (2, 768))


@pytest.mark.parametrize(
    ("value", "blocks"),
    [
        ({"stages": [2, 3]}, (4, 5, 6, 7, 8, 9, 10, 11)),
        ({"stages": "0-1"}, (0, 1, 2, 3)),
        ({"stages": [2], "blocks": "4-5"}, (8, 9)),
        ({"stages": [0, 3], "blocks": [1]}, (1, 11)),
        ({"stages": [3], "blocks": "all"}, (10, 11)),
        ("all", tuple(range(12))),
    ],
)
def test_blocks_are_named_by_stage_and_by_their_place_in_it(value, blocks):
    assert parse_blocks(value, 12, SWIN) == blocks


def test_a_backbone_without_stages_is_one():
    assert parse_blocks({"stages": [0], "blocks": [2]}, 6) == (2,)
    assert parse_blocks({"stages": [3]}) == ()  # not known yet


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ({"stages": [4]}, "names stage 4, but the backbone has stages 0 to 3"),
        ({"stages": [1, 2], "blocks": [2]}, "names block 2 of stage 1, which has blocks 0 to 1"),
        ({"stages": [1, 1]}, "names a stage twice"),
        ({"stages": []}, "must be all, backbone"),
        ({"blocks": [1]}, "counts blocks within stages, and names none"),
        ({"stage": [1]}, "unknown key stage; did you mean 'stages'"),
    ],
)
def test_what_names_no_blocks_is_refused_with_the_rule(value, rule):
    with pytest.raises(SpaceError, match=rule):
        parse_blocks(value, 12, SWIN)


def test_shares_are_of_the_width_of_the_blocks_own_stage():
    assert sizes_at([0, "1/64", "1/32"], 0, SWIN) == (0, 2, 3)
    assert sizes_at([0, "1/64", "1/32"], 9, SWIN) == (0, 6, 12)
    assert sizes_at([0, "1/96"], 0, ((1, 32),)) == (0, 1)
    assert sizes_at([0, 4], 0, ()) == (0, 4)
    with pytest.raises(SpaceError, match="whose width is known"):
        sizes_at([0, "1/32"], 0, ())


@pytest.mark.parametrize("sizes", [[0, "1/32", 8], ["1/32", "1/64"], ["3/2"], ["1/0"], ["a"], [0, "1/8", "2/16"]])
def test_shares_that_are_none_or_do_not_increase_are_listed(sizes):
    (fault,) = check_space({"methods": {"lora": {"blocks": "all", "sizes": sizes}}})
    assert fault.startswith("methods.lora.sizes: must")


def test_a_space_on_stages_draws_and_prunes_like_any_other():
    data = {"methods": {"lora": {"blocks": {"stages": [2, 3]}, "sizes": [0, "1/64", "1/32"]}}}
    space = Space.from_dict(data, 12, stages=SWIN)
    assert [d.block for d in space.dimensions] == list(range(4, 12))
    assert {d.sizes for d in space.dimensions} == {(0, 6, 12), (0, 12, 24)}
    assert space.count() == 3**8
