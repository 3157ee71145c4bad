from __future__ import annotations

import pytest
import torch
from torch import nn

from petlas.petl import (
    Design,
    DesignError,
    Placement,
    apply,
    count_params,
    count_tuned,
    merge,
    shape_by_name,
    tuned_state_dict,
)
from petlas.petl.backbones.vit import ViT
from petlas.petl.parts.low_rank import LowRank

LINEARS = {place: names for place, names in ViT.names.items() if "norm" not in place}

ALL = "q,k,v,proj,fc1,fc2"


def lora(rank=3, blocks=(0, 2), **options):
    return Design.of(Placement("lora", block, rank, options) for block in blocks)


def rows_of(target, outputs):
    """The layer of a target, and its rows of that layer's outputs."""
    layer = next(path for path, names in LINEARS.items() if target in names)
    if layer != "attn.qkv":
        return layer, slice(None)
    share = "qkv".index(target)
    return layer, slice(share * outputs // 3, (share + 1) * outputs // 3)


def updated(state, path, weight, scale, targets):
    """A weight with s B A in the rows of each target."""
    weight = weight.clone()
    for target in targets.split(","):
        layer, rows = rows_of(target, len(weight))
        key = f"lora.{path.removesuffix('.' + layer)}.{target}"
        if path.endswith(layer) and f"{key}.up" in state:
            weight[rows] += scale * state[f"{key}.up"] @ state[f"{key}.down"]
    return weight


@pytest.mark.parametrize(
    ("kind", "options", "targets", "scale"),
    [
        ("plain", {}, "q,v", 1.0),
        ("dinov2", {"alpha": 6}, "q,v", 2.0),
        ("gap", {"targets": ALL, "alpha": 1.5}, ALL, 0.5),
        ("dinov2", {"targets": "k,fc2"}, "k,fc2", 1.0),
    ],
)
def test_logits_and_gradients_are_those_of_the_formula(kind, options, targets, scale, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        def linear(self, path, x):
            state = {key.removeprefix("petl."): p for key, p in self.w.items()}
            weight = updated(state, path, self.w[f"{path}.weight"], scale, targets)
            return x @ weight.T + self.w[f"{path}.bias"]

    model = tuned(lora(**options), kind, double=True)
    same_as_by_hand(model, Formulas(model))


@pytest.mark.parametrize(("options", "scale"), [({}, 1.0), ({"alpha": 6}, 2.0), ({"targets": ALL}, 1.0)])
def test_merging_adds_scale_b_a_to_the_rows_of_the_targets_only(options, scale, tuned, make):
    model = tuned(lora(**options), "gap", double=True)
    state = {key: value.clone() for key, value in tuned_state_dict(model).items()}
    merge(model)
    before = make("gap").double().state_dict()
    for key, value in model.state_dict().items():
        path = key.removesuffix(".weight")
        changed = key != path and any(path.endswith(layer) for layer in LINEARS)
        expected = updated(state, path, before[key], scale, options.get("targets", "q,v")) if changed else before[key]
        if not key.startswith("head."):
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12, msg=key)


@pytest.mark.parametrize("targets", ["q,v", ALL])
def test_outputs_and_gradients_are_those_of_peft(targets, tuned, against_peft):
    against_peft(tuned(lora(targets=targets, alpha=12), "gap", double=True), "lora", targets, r=3, lora_alpha=12)


@pytest.mark.parametrize(
    ("rank", "targets", "count"),
    [(8, "q,v", 294_912), (4, "v , q", 147_456), (8, ALL, 1_327_104), (4, ALL, 663_552), (8, "fc1,fc2", 737_280)],
)
def test_the_count_on_vit_base_is_the_published_one(rank, targets, count):
    assert count_params(lora(rank, range(12), targets=targets), shape_by_name("vit_base_patch16_224")) == count


@pytest.mark.parametrize("arguments", [{"mlp_ratio": 2.5}, {"qkv_bias": False, "depth": 1}])
def test_the_count_holds_on_other_backbones(arguments, make):
    model = make("gap", **arguments)
    design = lora(2, (0,), targets=ALL)
    predicted = count_params(design, model)
    assert count_tuned(apply(model, design)) == predicted


def test_modules_stand_in_one_order_however_the_targets_are_written(make):
    states = [tuned_state_dict(apply(make("gap"), lora(targets=t))) for t in ("fc2,q, k", " k,fc2,q")]
    assert list(states[0]) == list(states[1])
    assert [key.split(".")[3] for key in states[0] if key.startswith("lora.blocks.0") and key.endswith("up")] == [
        "q",
        "k",
        "fc2",
    ]


@pytest.mark.parametrize("targets", ["q,x", "q,v,q", "", "q,,v", "qkv"])
def test_unknown_and_repeated_targets_are_refused(targets, make):
    rule = rf"targets of lora must name some of q, k, v, proj, fc1, fc2, each once.*got targets='{targets}'"
    with pytest.raises(DesignError, match=rule):
        apply(make("gap"), lora(targets=targets))


def test_a_block_without_a_layer_that_mixes_channels_alone_is_told_as_such():
    with pytest.raises(
        DesignError, match=r"lora changes linear layers .*block 1 of resnet18.* has none; choose another"
    ):
        count_params(lora(blocks=(1,), targets="all"), shape_by_name("resnet18"))


def test_modules_differ_at_the_start(make):
    state = tuned_state_dict(apply(make("gap"), lora(64, (0,))))
    assert not torch.equal(state["lora.blocks.0.q.down"], state["lora.blocks.0.v.down"])


def test_dropout_is_drawn_for_each_target_by_itself(make):
    model = apply(make("gap"), lora(1, (0,), dropout=0.5))
    q, v = (model.petl.get_submodule(f"lora.blocks.0.{name}") for name in "qv")
    for part in (q, v):
        nn.init.ones_(part.down)
        nn.init.ones_(part.up)
    x, layer = torch.ones(1, 1, 192), model.blocks[0].attn.qkv
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    assert torch.equal(layer(x), torch.tensor([192.0, 0.0, 192.0]).repeat_interleave(192)[None, None])
    first, _, last = model.train().blocks[0].attn.qkv(x).chunk(3, dim=-1)
    assert first[0, 0, 0] != last[0, 0, 0]


def test_a_narrowed_lora_merges_what_it_computes(tuned, images):
    model = tuned(lora(alpha=6, targets=ALL), "gap", double=True)
    for module in model.petl.modules():
        if isinstance(module, LowRank):
            module.narrow(2)
    with torch.no_grad():
        expected = model(images(model))
        torch.testing.assert_close(merge(model)(images(model)), expected, rtol=1e-9, atol=1e-9)
