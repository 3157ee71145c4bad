from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from petlas.petl import Design, Placement, apply, count_params, get_method, shape_by_name, tuned_state_dict

PLACEMENTS = (Placement("mona", 0, 3), Placement("mona", 2, 5))


def filtered(z, w, key, first, grid):
    """The mean of three depth-wise filters, as sums of shifted maps; their centres on tokens outside the grid."""
    rows, columns = grid
    outputs = torch.zeros_like(z)
    for side in (3, 5, 7):
        kernel, bias, edge = w[f"{key}.filter{side}"][:, 0], w[f"{key}.filter{side}_bias"], side // 2
        patches = z[:, first : first + rows * columns].reshape(len(z), rows, columns, -1)
        padded = F.pad(patches, (0, 0, edge, edge, edge, edge))
        total = sum(
            padded[:, dy : dy + rows, dx : dx + columns] * kernel[:, dy, dx] for dy in range(side) for dx in range(side)
        ).flatten(1, 2)
        alone = z * kernel[:, edge, edge]
        parts = [alone[:, :first], total, alone[:, first + rows * columns :]]
        outputs = outputs + (torch.cat(parts, dim=1) + bias) / 3
    return outputs


def adapter(w, key, x, first, grid):
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    normed = normed * w[f"{key}.norm.weight"] + w[f"{key}.norm.bias"]
    x = normed * w[f"{key}.norm_scale"] + x * w[f"{key}.stream_scale"]
    z = x @ w[f"{key}.down"].T + w[f"{key}.down_bias"]
    c = z + filtered(z, w, key, first, grid)
    c = c + c @ w[f"{key}.mix"][:, :, 0, 0].T + w[f"{key}.mix_bias"]
    return F.gelu(c) @ w[f"{key}.up"].T + w[f"{key}.up_bias"]


@pytest.mark.parametrize("prompts", [0, 3])
@pytest.mark.parametrize(
    ("kind", "arguments", "grid"),
    [("plain", {}, (2, 2)), ("dinov2", {}, (2, 2)), ("gap", {}, (3, 3)), ("plain", {"img_size": (32, 64)}, (2, 4))],
    ids=["class", "registers", "patches", "oblong"],
)
def test_logits_and_gradients_are_those_of_the_formula(kind, arguments, grid, prompts, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        def adapt(self, key, x):
            if f"{key}.down" not in self.w:
                return x
            return x + adapter(self.w, key, x, self.model.num_prefix_tokens, grid)

        def between(self, i, x):
            return self.adapt(f"petl.mona.blocks.{i}.attn.adapter", x)

        def behind(self, i, x):
            return self.adapt(f"petl.mona.blocks.{i}.mlp", x)

        def before(self, i, x):
            if prompts and i == 0:
                x = torch.cat([x, self.w["petl.vpt.blocks.0.tokens"].expand(len(x), -1, -1)], dim=1)
            return x

        def leave(self, x):
            return x[:, :-prompts] if prompts else x

    tokens = [Placement("vpt", 0, prompts)] if prompts else []
    model = tuned(Design.of([*PLACEMENTS, *tokens]), kind, double=True, **arguments)
    same_as_by_hand(model, Formulas(model))


def test_the_count_is_that_of_the_reference():
    method, shape = get_method("mona"), shape_by_name("vit_base_patch16_224")
    assert count_params(Design.of(method.baseline(shape, 64)), shape) == 24 * (133 * 768 + 9_728) == 2_684_928


def test_it_starts_as_published(make):
    state = tuned_state_dict(apply(make("gap"), Design.of([Placement("mona", 1, 64)])))
    for site in ("attn.adapter", "mlp"):
        values = {key.removeprefix(f"mona.blocks.1.{site}."): value for key, value in state.items() if site in key}
        for leaf in ("down", "up"):
            assert values[leaf].std().item() == pytest.approx(0.02, rel=0.03)
            assert values[leaf].abs().max() > 0.06
            assert not values[f"{leaf}_bias"].any()
        for leaf, fan_in in (("filter3", 9), ("filter5", 25), ("filter7", 49), ("mix", 64)):
            bound = 1 / math.sqrt(fan_in)
            assert 0.97 * bound < values[leaf].abs().max() <= bound
            assert values[leaf].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.06)
            assert 0.8 * bound < values[f"{leaf}_bias"].abs().max() <= bound
        assert (values["norm_scale"] == 1e-6).all() and (values["stream_scale"] == 1).all()
        assert (values["norm.weight"] == 1).all() and not values["norm.bias"].any()


def test_dropout_is_on_by_default_in_training_and_can_be_turned_off(make, images):
    for options, same in (({}, False), ({"dropout": 0}, True)):
        model = apply(make("gap"), Design.of([Placement("mona", 1, 8, options)])).train()
        with torch.no_grad():
            assert torch.equal(model(images(model)), model(images(model))) is same


def test_no_activation_is_kept_after_the_forward_pass(tuned, images):
    model = tuned(Design.of(PLACEMENTS), "gap")
    model(images(model))
    assert all(getattr(m, "_entering", None) is None for m in model.petl.modules())
