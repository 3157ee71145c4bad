from __future__ import annotations

from petlas.petl import Placement, get_method, shape_of


def test_a_baseline_covers_the_whole_backbone_where_it_can(make):
    shape = shape_of(make("gap"))
    assert get_method("ssf").baseline(shape, None) == (Placement("ssf"),)
    assert get_method("lora").baseline(shape, 4) == tuple(Placement("lora", block, 4) for block in range(3))


def test_options_fall_back_to_the_methods_defaults():
    method = get_method("adaptformer")
    assert method.placed(Placement("adaptformer", 0, 4)).options.scale == 0.1
    assert method.placed(Placement("adaptformer", 0, 4, {"scale": 2})).options.scale == 2
    assert method.options == {"scale": 0.1, "dropout": 0.1}
