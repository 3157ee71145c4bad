from __future__ import annotations

import pytest

from petlas.petl import DesignError, Placement, get_method


def test_what_a_method_gets_has_a_size_a_block_and_options_of_the_declared_types():
    placed = get_method("lora").placed(Placement("lora", 2, 4, {"alpha": 3}))
    assert (placed.block, placed.size, placed.path) == (2, 4, "blocks.2")
    assert isinstance(placed.options.alpha, float) and placed.options.targets == "q,v"
    whole = get_method("ssf").placed(Placement("ssf"))
    assert (whole.place, whole.size, whole.path) == (None, 0, "")
    with pytest.raises(TypeError, match="has no block"):
        _ = whole.block


@pytest.mark.parametrize(("name", "option", "value"), [("snf", "flows", -1), ("lorand", "beta", 2.5)])
def test_options_that_are_whole_numbers_are_checked_as_declared(name, option, value):
    with pytest.raises(DesignError, match=rf"option {option} of {name} must be a whole number of at least \d, got"):
        get_method(name).placed(Placement(name, 0, 2, {option: value}))
