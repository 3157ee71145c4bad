from __future__ import annotations

import copy
import math

import pytest
import torch
from timm.layers.mlp import SwiGLUPacked

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

# The squares of a block's weights, in the order of the pieces: layer, row and column of the square.
PIECES = [
    *(("attn.qkv", row, 0) for row in range(3)),
    ("attn.proj", 0, 0),
    *(("mlp.fc1", row, 0) for row in range(4)),
    *(("mlp.fc2", 0, column) for column in range(4)),
]
both = pytest.mark.parametrize("name", ["fact_tt", "fact_tk"])


def fact(name, rank=3, **options):
    return Design.of([Placement(name, None, rank, options)])


def deltas(state, name, scale):
    """The update of each weight, square by square."""
    down, up, core = (state[f"{name}.{key}"] for key in ("down", "up", "core"))
    width, updates = down.shape[1], {}
    for piece in range(36):
        block, (layer, row, column) = piece // 12, PIECES[piece % 12]
        if name == "fact_tt":
            middle = core[piece]
        else:
            middle = sum(weight * matrix for weight, matrix in zip(state[f"{name}.mix"][piece], core, strict=True))
        rows, columns = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}[layer]
        path = f"blocks.{block}.{layer}"
        update = updates.get(path, torch.zeros(rows * width, columns * width, dtype=torch.float64)).clone()
        update[row * width : (row + 1) * width, column * width : (column + 1) * width] = scale * up @ middle @ down
        updates[path] = update
    return updates


@both
@pytest.mark.parametrize(("kind", "options", "scale"), [("dinov2", {}, 1.0), ("gap", {"scale": 0.5}, 0.5)])
def test_logits_gradients_and_merged_weights_are_those_of_the_formula(
    name, kind, options, scale, tuned, by_hand, same_as_by_hand
):
    class Formulas(by_hand):
        def forward(self, images):
            self.deltas = deltas({key.removeprefix("petl."): p for key, p in self.w.items()}, name, scale)
            return super().forward(images)

        def after(self, path, z, x):
            return z + x @ self.deltas[path].T if path in self.deltas else z

    model = tuned(fact(name, **options), kind, double=True)
    same_as_by_hand(model, Formulas(model))
    expected = deltas(tuned_state_dict(copy.deepcopy(model)), name, scale)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for key, value in merge(model).state_dict().items():
        path = key.removesuffix(".weight")
        change = expected[path] if path != key and path in expected else 0
        torch.testing.assert_close(value, before[key] + change, rtol=1e-12, atol=1e-12, msg=key)


@pytest.mark.parametrize(
    ("name", "rank", "count"),
    [
        ("fact_tt", 16, 61_440),
        ("fact_tt", 8, 21_504),
        ("fact_tt", 4, 8_448),
        ("fact_tk", 32, 86_528),
        ("fact_tk", 16, 30_976),
    ],
)
def test_the_count_on_vit_base_is_the_published_one(name, rank, count):
    assert count_params(fact(name, rank), shape_by_name("vit_base_patch16_224")) == count


@both
@pytest.mark.parametrize(
    "arguments",
    [{"mlp_ratio": 2}, {"mlp_ratio": 4, "mlp_layer": SwiGLUPacked, "qkv_bias": False}],
    ids=["narrow", "gated"],
)
def test_other_mlps_have_as_many_pieces_as_they_need(name, arguments, make, images, shake):
    model = make("gap", depth=1, **arguments).double()
    design = fact(name, 2)
    predicted = count_params(design, model)
    assert count_tuned(apply(model, design)) == predicted
    layers = [
        module for path, module in model.blocks[0].named_modules() if path.endswith(("qkv", "proj", "fc1", "fc2"))
    ]
    pieces = sum((layer.out_features // 192) * (layer.in_features // 192) for layer in layers)
    assert len(model.petl.get_submodule(name).get_parameter("core" if name == "fact_tt" else "mix")) == pieces
    shake(model)
    with torch.no_grad():
        expected = model(images(model))
        torch.testing.assert_close(merge(model)(images(model)), expected, rtol=1e-9, atol=1e-9)


def test_a_tensor_train_starts_like_linear_layers_and_with_v_at_zero(make):
    state = tuned_state_dict(apply(make("gap"), fact("fact_tt", 64)))
    assert not state["fact_tt.up"].any()
    assert 0.98 / math.sqrt(192) < state["fact_tt.down"].abs().max() <= 1 / math.sqrt(192)
    for piece, middle in enumerate(state["fact_tt.core"]):
        bound = 1 / math.sqrt(256 if PIECES[piece % 12][0] == "mlp.fc2" else 64)
        assert 0.98 * bound < middle.abs().max() <= bound
        assert abs(middle.mean()) < 0.1 * bound


def test_tucker_factors_start_xavier_and_with_v_at_zero(make):
    state = tuned_state_dict(apply(make("gap"), fact("fact_tk", 32)))
    assert not state["fact_tk.up"].any()
    for key, bound in (("core", math.sqrt(6 / (2 * 32 * 32))), ("mix", math.sqrt(6 / (36 + 32)))):
        assert 0.98 * bound < state[f"fact_tk.{key}"].abs().max() <= bound
        assert state[f"fact_tk.{key}"].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


@both
def test_dropout_acts_on_the_rank_behind_the_middle_in_training_only(name, make):
    model = apply(make("gap"), fact(name, 64, dropout=0.5))
    module, layer = model.petl.get_submodule(name), model.blocks[0].attn.proj
    for p in (module.up, layer.weight, layer.bias):
        torch.nn.init.zeros_(p)
    with torch.no_grad():
        module.up[:64] = torch.eye(64)
    x = torch.randn(1, 5, 192)
    hidden = layer(x)[..., :64]
    dropped = model.train().blocks[0].attn.proj(x)[..., :64]
    kept = dropped != 0
    assert 0.3 < kept.float().mean() < 0.7
    torch.testing.assert_close(dropped[kept], 2 * hidden[kept])


@both
def test_a_backbone_whose_weights_are_no_squares_is_refused(name, make):
    rule = r"cuts every weight into squares of 192 x 192.*blocks.0.mlp.fc1 has 480 x 192; take a backbone"
    with pytest.raises(DesignError, match=rule):
        apply(make("gap", mlp_ratio=2.5), fact(name))
    with pytest.raises(DesignError, match=f"{name} covers the whole backbone, got block=1"):
        apply(make("gap"), Design.of([Placement(name, 1, 2)]))
