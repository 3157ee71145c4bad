from __future__ import annotations

from petlas.petl import Design, Placement, apply, get_method, shape_of


def test_a_baseline_covers_the_whole_backbone_where_it_can(make):
    shape = shape_of(make("gap"))
    assert get_method("ssf").baseline(shape, None) == (Placement("ssf"),)
    assert get_method("lora").baseline(shape, 4) == tuple(Placement("lora", block, 4) for block in range(3))


def test_options_fall_back_to_the_methods_defaults():
    method = get_method("adaptformer")
    assert method.placed(Placement("adaptformer", 0, 4)).options.scale == 0.1
    assert method.placed(Placement("adaptformer", 0, 4, {"scale": 2})).options.scale == 2
    assert method.options == {"scale": 0.1, "dropout": 0.1}


def test_placements_of_one_method_may_differ_in_size_and_options(make, images):
    design = Design.of([Placement("adaptformer", 0, 2, {"scale": 2.0}), Placement("adaptformer", 2, 5)])
    model = apply(make("gap"), design)
    modules = model.petl.get_submodule("adaptformer.blocks")
    assert [(m.bottleneck.size, m.scale) for m in modules.children()] == [(2, 2.0), (5, 0.1)]
    assert model(images(model)).isfinite().all()
