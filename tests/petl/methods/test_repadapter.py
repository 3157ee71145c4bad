from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from petlas.petl import (
    Design,
    DesignError,
    Placement,
    apply,
    count_params,
    get_method,
    merge,
    shape_by_name,
    tuned_state_dict,
)


def repadapter(size=4, blocks=(0, 2), **options):
    return Design.of(Placement("repadapter", block, size, options) for block in blocks)


def paper_order(down, down_bias, up, groups):
    """Hidden units sorted by group, and Up as the weight of a grouped convolution (D, h / g, 1)."""
    order = torch.arange(len(down)).view(-1, groups).T.flatten()
    per_group = up[:, order].view(len(up), groups, -1).transpose(0, 1)
    return down[order, :, None], down_bias[order], per_group.flatten(0, 1)[..., None]


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
@pytest.mark.parametrize(("options", "scale", "groups"), [({}, 1.0, 2), ({"scale": 5, "groups": 4}, 5.0, 4)])
def test_logits_and_gradients_are_those_of_grouped_convolutions(
    kind, options, scale, groups, tuned, by_hand, same_as_by_hand
):
    class Formulas(by_hand):
        def linear(self, path, x):
            sites = {"attn.qkv": "attn", "mlp.fc1": "mlp"}
            block, _, layer = path.removeprefix("blocks.").partition(".")
            key = f"petl.repadapter.blocks.{block}.{sites.get(layer)}.bottleneck"
            if f"{key}.down" in self.w:
                w = [self.w[f"{key}.{leaf}"] for leaf in ("down", "down_bias", "up")]
                down, down_bias, up = paper_order(*w, groups)
                hidden = F.conv1d(x.transpose(1, 2), down, down_bias)
                x = x + scale * F.conv1d(hidden, up, self.w[f"{key}.up_bias"], groups=groups).transpose(1, 2)
            return super().linear(path, x)

    model = tuned(repadapter(8, **options), kind, double=True)
    same_as_by_hand(model, Formulas(model))


@pytest.mark.parametrize(("size", "groups"), [(4, 1), (4, 2), (5, 2), (1, 2), (3, 4)])
def test_merging_multiplies_the_layers_behind_from_the_right(size, groups, tuned, make):
    model = tuned(repadapter(size, groups=groups, scale=0.5), "gap", double=True)
    tensors = {key: value.clone() for key, value in tuned_state_dict(model).items()}
    merge(model)
    after, before = model.state_dict(), make("gap").double().state_dict()
    group_of_output = torch.arange(192) // (192 // groups)
    for block in range(3):
        for site, layer in (("attn", "attn.qkv"), ("mlp", "mlp.fc1")):
            path = f"blocks.{block}.{layer}"
            m, c = torch.eye(192, dtype=torch.float64), torch.zeros(192, dtype=torch.float64)
            if block != 1:
                key = f"repadapter.blocks.{block}.{site}.bottleneck"
                dense = torch.zeros(192, size, dtype=torch.float64)
                for out in range(192):
                    for j in range(size):
                        if j % groups == group_of_output[out]:
                            dense[out, j] = tensors[f"{key}.up"][out % (192 // groups), j]
                m += 0.5 * dense @ tensors[f"{key}.down"]
                c += 0.5 * (dense @ tensors[f"{key}.down_bias"] + tensors[f"{key}.up_bias"])
            old = before[f"{path}.weight"]
            torch.testing.assert_close(after[f"{path}.weight"], old @ m, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(after[f"{path}.bias"], before[f"{path}.bias"] + old @ c, rtol=1e-12, atol=1e-12)


def test_a_layer_without_a_bias_gets_one_when_merged(tuned, images):
    model = tuned(repadapter(), "gap", double=True, qkv_bias=False)
    with torch.no_grad():
        expected = model(images(model))
        torch.testing.assert_close(merge(model)(images(model)), expected, rtol=1e-9, atol=1e-9)
    assert model.blocks[0].attn.qkv.bias is not None and model.blocks[1].attn.qkv.bias is None


def test_the_count_is_that_of_the_reference():
    method, shape = get_method("repadapter"), shape_by_name("vit_base_patch16_224")
    assert count_params(Design.of(method.baseline(shape, 8)), shape) == 239_808
    assert count_params(Design.of(Placement("repadapter", b, 8, {"groups": 1}) for b in range(12)), shape) == 313_536


def test_down_is_xavier_and_the_rest_is_zero_at_the_start(make):
    state = tuned_state_dict(apply(make("gap"), repadapter(64, (0,))))
    for site in ("attn", "mlp"):
        key, bound = f"repadapter.blocks.0.{site}.bottleneck", math.sqrt(6 / (192 + 64))
        assert 0.98 * bound < state[f"{key}.down"].abs().max() <= bound
        assert state[f"{key}.down"].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
        assert state[f"{key}.up"].shape == (96, 64)
        assert not any(state[f"{key}.{leaf}"].any() for leaf in ("up", "down_bias", "up_bias"))


def test_dropout_is_on_by_default_in_training_and_can_be_turned_off(make, shake, images):
    for options, same in (({}, False), ({"dropout": 0}, True)):
        model = apply(make("gap"), repadapter(**options))
        shake(model)
        model.train()
        with torch.no_grad():
            assert torch.equal(model(images(model)), model(images(model))) is same


@pytest.mark.parametrize("groups", [0, -2, 5, 2.5])
def test_groups_that_do_not_divide_the_channels_are_refused(groups, make):
    with pytest.raises(DesignError, match=rf"whole number that divides the 192 channels of .*, got groups={groups}"):
        apply(make("gap"), repadapter(groups=groups))
