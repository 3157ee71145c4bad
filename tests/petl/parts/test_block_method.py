from __future__ import annotations

from petlas.petl import Design, Placement, apply


def test_placements_of_one_method_may_differ_in_size_and_options(make, images):
    design = Design.of([Placement("adaptformer", 0, 2, {"scale": 2.0}), Placement("adaptformer", 2, 5)])
    model = apply(make("gap"), design)
    modules = model.petl.get_submodule("adaptformer.blocks")
    assert [(m.bottleneck.size, m.scale) for m in modules.children()] == [(2, 2.0), (5, 0.1)]
    assert model(images(model)).isfinite().all()
