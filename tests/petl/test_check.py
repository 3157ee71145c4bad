from __future__ import annotations

import pytest

from petlas.petl import Design, DesignError, Placement, apply, check_design, count_params, shape_by_name

VIT_B = "vit_base_patch16_224"


def every_block(method, size=None, **options):
    return [Placement(method, block, size, options) for block in range(12)]


@pytest.mark.parametrize(
    ("placements", "count"),
    [
        ([], 0),
        ([Placement("linear")], 0),
        (every_block("lora", 8), 294_912),
        (every_block("lora", 4), 147_456),
        (every_block("lora", 16), 589_824),
        (every_block("adapter", 8), 156_768),
        (every_block("adapter", 12), 230_544),
        (every_block("adapter", 96), 1_779_840),
        (every_block("adaptformer", 8), 156_768),
        (every_block("adaptformer", 64), 1_189_632),
        ([Placement("vpt", 0, 100)], 76_800),
        (every_block("vpt", 50), 460_800),
        ([Placement("ssf")], 205_824),
        ([Placement("bitfit")], 102_912),
        (every_block("bitfit"), 101_376),
        (every_block("ssf"), 202_752),
        ([Placement("full")], 85_798_656),
    ],
    ids=lambda value: value if isinstance(value, int) else f"{len(value)}x{value[0].method if value else 'none'}",
)
def test_counts_on_vit_base_are_the_published_ones(placements, count):
    assert count_params(Design.of(placements), shape_by_name(VIT_B)) == count


def test_the_count_of_noahs_cifar100_subnet_is_the_published_one():
    tokens = (10, 5, 10, 1, 5, 1, 10, 1, 10, 5, 1, 10)
    ranks = (10, 1, 5, 5, 1, 10, 1, 1, 1, 10, 1, 1)
    widths = (5, 10, 10, 10, 5, 1, 1, 1, 10, 10, 10, 1)
    design = Design.of(
        Placement(method, block, size)
        for method, sizes in (("vpt", tokens), ("lora", ranks), ("adapter", widths))
        for block, size in enumerate(sizes)
    )
    assert count_params(design, shape_by_name(VIT_B)) == 320_330


def test_an_unknown_method_is_refused_with_the_nearest_name(make):
    model = make("gap")
    with pytest.raises(DesignError, match=r"got method='adaptor'; did you mean adapter?"):
        apply(model, Design.of([Placement("adaptor", 0, 8)]))
    with pytest.raises(DesignError, match="got method='zzz'; the methods are linear, full"):
        count_params(Design.of([Placement("zzz", 0, 8)]), model)
    assert not hasattr(model, "petl")


def test_check_design_works_on_a_shape_alone():
    shape = shape_by_name(VIT_B)
    check_design(Design.of([Placement("lora", 11, 8)]), shape)
    with pytest.raises(DesignError, match=r"block must be in 0\.\.11"):
        check_design(Design.of([Placement("lora", 12, 8)]), shape)
