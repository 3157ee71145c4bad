"""The published counts of trainable parameters on ViT-B/16, head excluded, by formula."""

from __future__ import annotations

from dataclasses import replace

import pytest

from petlas.petl import METHODS, Design, Placement, check_design, count_params, get_method, shape_by_name

SHAPE = shape_by_name("vit_base_patch16_224")

ON_MAPS = {"conv_adapter", "pad_prompt"}
"""On no ViT."""

PUBLISHED = [
    ("linear", None, {}, 0),
    ("full", None, {}, 85_798_656),
    ("bitfit", None, {}, 102_912),
    ("ln_tune", None, {}, 38_400),
    ("partial", 1, {}, 7_089_408),
    ("lora", 4, {}, 147_456),
    ("lora", 8, {}, 294_912),
    ("lora", 16, {}, 589_824),
    ("lora", 4, {"targets": "q,k,v,proj,fc1,fc2"}, 663_552),
    ("lora", 8, {"targets": "q,k,v,proj,fc1,fc2"}, 1_327_104),
    ("dora", 8, {}, 313_344),
    ("dora", 8, {"targets": "q,k,v,proj,fc1,fc2"}, 1_410_048),
    ("houlsby", 8, {}, 313_536),
    ("houlsby", 64, {}, 2_379_264),
    ("adapter", 8, {}, 156_768),
    ("adapter", 12, {}, 230_544),
    ("adapter", 96, {}, 1_779_840),
    ("adapter_plus", 1, {}, 36_876),
    ("adapter_plus", 8, {}, 165_984),
    ("adapter_plus", 16, {}, 313_536),
    ("adaptformer", 8, {}, 156_768),
    ("adaptformer", 64, {}, 1_189_632),
    ("vpt_shallow", 100, {}, 76_800),
    ("vpt", 50, {}, 460_800),
    ("prefix", 10, {}, 184_320),
    ("prefix", 20, {}, 368_640),
    ("ssf", None, {}, 205_824),
    ("fact_tt", 4, {}, 8_448),
    ("fact_tt", 8, {}, 21_504),
    ("fact_tt", 16, {}, 61_440),
    ("fact_tk", 16, {}, 30_976),
    ("fact_tk", 32, {}, 86_528),
    ("convpass", 8, {}, 327_552),
    ("convpass_attn", 8, {}, 163_776),
    ("repadapter", 8, {}, 239_808),
    ("hydra", 2, {}, 239_712),
    ("gps", 1, {}, 167_424),
    ("gps", 2, {}, 251_136),
    ("sparse", 1000, {}, 12_000),
    ("linear_adapter", 8, {}, 1_410_624),
    ("linear_adapter", 8, {"targets": "q"}, 156_768),
    ("sct", 96, {}, 111_744),
    ("lst", 96, {}, 2_376_492),
    ("dtl", 2, {}, 36_864),
    ("dtl_plus", 2, {}, 43_776),
    ("dtl_plus", 2, {"kernel": 5}, 56_064),
    ("hst", None, {}, 764_840),
    ("snf", None, {"flows": 0}, 36_864),
    ("snf", None, {"flows": 1}, 73_752),
    ("snf", None, {"flows": 16}, 627_072),
    ("u_tuning", 10, {}, 184_320),
    ("kadaptation", 32, {}, 50_176),
    ("vqt", 1, {}, 9_216),
    ("vqt", 10, {}, 92_160),
    ("bapat", 32, {}, 2_064_384),
    ("mona", 64, {}, 2_684_928),
    ("lorand", 2, {}, 915_456),
    ("e3va", 2, {}, 915_456),
    ("last", 16, {}, 658_944),
    ("glora", 4, {"a": "lora", "b": "lora", "c": "lora", "d": "vector", "e": "vector"}, 1_603_776),
]


def design(name, size, options):
    placements = get_method(name).baseline(SHAPE, size) or (Placement(name),)
    return Design.of(replace(p, options=options) for p in placements)


@pytest.mark.parametrize(("name", "size", "options", "count"), PUBLISHED)
def test_the_formula_gives_the_published_count_on_vit_base(name, size, options, count):
    if name not in METHODS:
        pytest.skip(f"there is no method {name} yet")
    assert count_params(design(name, size, options), SHAPE) == count


@pytest.mark.parametrize("name", [n for n in METHODS if n not in ON_MAPS])
def test_the_default_size_can_be_placed_on_vit_base(name):
    method = get_method(name)
    check_design(Design.of(method.baseline(SHAPE, method.default_size)), SHAPE)


def test_every_method_with_a_published_count_is_in_the_table():
    # pfeiffer is AdapterHub's own placement: the tables that name it count another one.
    assert set(METHODS) - {"pfeiffer", *ON_MAPS} <= {name for name, *_ in PUBLISHED}
