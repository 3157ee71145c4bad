from __future__ import annotations

from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from petlas.petl import Design, Placement, apply, tuned_state_dict


def prefix(size=3, blocks=(0, 2)):
    return Design.of(Placement("prefix", block, size) for block in blocks)


def formulas(by_hand):
    class Formulas(by_hand):
        def attention(self, path, x):
            n, tokens, width = x.shape
            q, k, v = self.linear(f"{path}.qkv", x).split(width, dim=-1)
            key = f"petl.prefix.{path.removesuffix('.attn')}"
            if f"{key}.keys" in self.w:
                k = torch.cat([k, self.w[f"{key}.keys"].expand(n, -1, -1)], dim=1)
                v = torch.cat([v, self.w[f"{key}.values"].expand(n, -1, -1)], dim=1)
            q, k, v = (t.view(n, t.shape[1], self.heads, -1).transpose(1, 2) for t in (q, k, v))
            weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
            return self.linear(f"{path}.proj", (weights @ v).transpose(1, 2).reshape(n, tokens, width))

    return Formulas


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
def test_logits_and_gradients_are_those_of_the_formula(kind, tuned, by_hand, same_as_by_hand):
    model = tuned(prefix(), kind, double=True)
    same_as_by_hand(model, formulas(by_hand)(model))


def test_without_fused_attention_it_is_the_same(tuned, by_hand, same_as_by_hand):
    model = tuned(prefix(), "dinov2", double=True)
    for block in model.blocks:
        block.attn.fused_attn = False
    same_as_by_hand(model, formulas(by_hand)(model))


def test_the_attention_stays_fused_and_reads_p_more_keys(tuned, images):
    model = tuned(prefix(blocks=(1,)), "dinov2")
    with mock.patch("torch.nn.functional.scaled_dot_product_attention", wraps=F.scaled_dot_product_attention) as fused:
        model(images(model))
    assert [call.args[1].shape[2] for call in fused.call_args_list] == [9, 12, 9]


def test_neither_the_sequence_nor_what_is_hooked_on_the_attention_sees_the_prefixes(tuned, images):
    model = tuned(prefix(), "dinov2")
    lengths = []
    for block in model.blocks:
        block.attn.register_forward_hook(lambda _, args, output: lengths.extend([args[0].shape[1], output.shape[1]]))
    assert model.forward_features(images(model)).shape[1] == 9
    assert lengths == [9] * 6


def test_on_a_backbone_with_a_norm_of_keys_the_prefixes_pass_it(tuned, images):
    model = tuned(prefix(), "plain", qk_norm=True)
    seen = []
    model.blocks[0].attn.k_norm.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    model(images(model))
    keys = tuned_state_dict(model)["prefix.blocks.0.keys"]
    assert torch.equal(seen[0][0, :, -3:].transpose(0, 1).flatten(1), keys)


def test_keys_and_values_start_normal_with_a_deviation_of_0_02(make):
    state = tuned_state_dict(apply(make("plain"), prefix(64)))
    for name in ("keys", "values"):
        values = state[f"prefix.blocks.0.{name}"]
        assert values.std().item() == pytest.approx(0.02, rel=0.03)
        assert abs(values.mean().item()) < 0.001
