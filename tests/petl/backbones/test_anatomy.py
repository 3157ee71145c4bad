from __future__ import annotations

import pytest

from petlas.petl import count_params, get_method, shape_by_name, shape_of
from petlas.petl.design import Design

PUBLISHED = {
    "swin_tiny_patch4_window7_224": {
        **{"full": 27_519_354, "lora": 141_312, "adapter": 75_168, "mona": 1_408_128, "lorand": 440_256},
        **{"ln_tune": 24_768, "bitfit": 52_224, "prefix": 88_320, "e3va": 440_256},
    },
    "swin_large_patch4_window7_224": {
        **{"full": 194_995_476, "lora": 577_536, "adapter": 307_008, "mona": 5_267_712, "lorand": 1_792_896},
        **{"ln_tune": 86_400, "bitfit": 205_824, "prefix": 360_960, "e3va": 1_792_896},
    },
    "swin_base_patch4_window7_224": {
        **{"full": 86_743_224, "lora": 385_024, "adapter": 204_736, "mona": 3_667_456, "lorand": 1_197_312},
        **{"ln_tune": 57_600, "bitfit": 137_216, "fact_tt": 135_168, "prefix": 240_640},
        **{"vpt": 120_320, "e3va": 1_197_312, "adaptformer": 204_736, "convpass": 437_504, "repadapter": 313_216},
        "partial": 12_582_912 + 13_312 + 5_408 + 2_048,  # a block, its table of positions, the last norm
        "ssf": 274_432 + 2 * (256 + 512 + 1024),  # the table leaves out what reduces four merged patches to two
    },
    "convnext_tiny": {"full": 27_820_128, "lora": 529_920, "adapter": 112_752, "ln_tune": 16_320, "bitfit": 49_344},
    "convnext_base": {
        **{
            "full": 87_566_464,
            "lora": 1_443_840,
            "adapter": 307_104,
            "ln_tune": 40_192,
            "bitfit": 130_304,
            "ssf": 260_608,
        },
    },
    "swinv2_base_window8_256": {"full": 86_893_816, "ln_tune": 54_016, "bitfit": 111_616 + 24_064},
    "resnet50": {"full": 23_508_032, "ln_tune": 53_120, "bitfit": 26_560},
    "resnet101": {"full": 42_500_160},
    "vit_base_patch16_clip_quickgelu_224": {"full": 85_799_424, "ln_tune": 39_936},
    "eva02_base_patch16_clip_224": {"full": 85_869_312, "ln_tune": 105_984, "bitfit": 139_776},
    "eva_giant_patch14_224": {"full": 1_011_146_112},
}
"""By the default size of each method, as papers and repositories count them."""


OTHER_SIZES = [("houlsby", 64, 3_107_328), ("adapter", 64, 1_553_664), ("lora", 64, 3_080_192)]
"""Of Swin-B, as Mona's repository sets them."""


@pytest.mark.parametrize(("method", "size", "count"), OTHER_SIZES)
def test_the_counts_at_other_sizes_are_the_published_ones(method, size, count):
    shape = shape_by_name("swin_base_patch4_window7_224")
    assert count_params(Design.of(get_method(method).baseline(shape, size)), shape) == count


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_counts_are_the_published_ones(name):
    shape = shape_by_name(name)
    for method, count in PUBLISHED[name].items():
        design = Design.of(get_method(method).baseline(shape, get_method(method).default_size))
        assert count_params(design, shape) == count, method


def test_blocks_are_numbered_through_the_stages(small):
    shape = shape_of(small("swin"))
    assert [(b.index, b.stage, b.width, b.grid, b.patch) for b in shape.blocks] == [
        (0, 0, 32, (8, 8), (4, 4)),
        (1, 0, 32, (8, 8), (4, 4)),
        (2, 1, 64, (4, 4), (8, 8)),
    ]
    assert (shape.depth, shape.width, shape.grid, shape.patch) == (3, 64, (8, 8), (4, 4))
    assert shape.block_paths == ("layers.0.blocks.0", "layers.0.blocks.1", "layers.1.blocks.0")


def test_every_parameter_is_of_a_layer_a_scale_or_of_nothing_that_is_named(small):
    model = small("swinv2")
    shape = shape_of(model)
    in_blocks = {p for p, _ in model.named_parameters() if p.startswith(shape.block_paths)}
    layers = {path for layer in shape.layers for path in layer.parameters}
    others = [other.path for other in shape.others]
    assert in_blocks == {path for path in layers if path.startswith(shape.block_paths)} | set(others)
    assert not layers & set(others)
    assert sum(other.entries for other in shape.others) == sum(model.get_parameter(p).numel() for p in others)
