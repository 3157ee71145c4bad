from __future__ import annotations

import math

import pytest
import torch

from petlas.petl import Design, Placement, apply, merge, tuned_state_dict
from petlas.petl.methods.lora import LowRank


def lora(rank=3, blocks=(0, 2), **options):
    return Design.of(Placement("lora", block, rank, options) for block in blocks)


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (6, 2.0), (1.5, 0.5)])
def test_logits_and_gradients_are_those_of_the_formula(kind, alpha, scale, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        def after(self, path, z, x):
            key = f"petl.lora.{path.removesuffix('.attn.qkv')}"
            if not path.endswith("qkv") or f"{key}.q.down" not in self.w:
                return z
            q, k, v = z.split(x.shape[-1], dim=-1)
            q = q + scale * x @ (self.w[f"{key}.q.up"] @ self.w[f"{key}.q.down"]).T
            v = v + scale * x @ (self.w[f"{key}.v.up"] @ self.w[f"{key}.v.down"]).T
            return torch.cat([q, k, v], dim=-1)

    model = tuned(lora(**{} if alpha is None else {"alpha": alpha}), kind, double=True)
    same_as_by_hand(model, Formulas(model))


@pytest.mark.parametrize("alpha", [None, 6])
def test_merging_adds_scale_b_a_to_the_rows_of_q_and_v_only(alpha, tuned, make):
    model = tuned(lora(**{} if alpha is None else {"alpha": alpha}), "gap", double=True)
    tensors = {key: value.clone() for key, value in tuned_state_dict(model).items()}
    merge(model)
    before = make("gap").double().state_dict()
    for key, value in model.state_dict().items():
        expected = before[key].clone()
        if key in ("blocks.0.attn.qkv.weight", "blocks.2.attn.qkv.weight"):
            site = f"lora.{key.removesuffix('.attn.qkv.weight')}"
            scale = 1 if alpha is None else alpha / 3
            expected[:192] += scale * tensors[f"{site}.q.up"] @ tensors[f"{site}.q.down"]
            expected[384:] += scale * tensors[f"{site}.v.up"] @ tensors[f"{site}.v.down"]
        if not key.startswith("head."):
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12, msg=key)


def test_outputs_and_gradients_are_those_of_peft(tuned):
    peft = pytest.importorskip("peft")
    model = tuned(lora(alpha=12), "gap", double=True)
    fused, ours = model.blocks[2].attn.qkv, model.petl.get_submodule("lora.blocks.2")

    class Split(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (torch.nn.Linear(192, 192, dtype=torch.float64) for _ in range(3))

        def forward(self, x):
            return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)

    split = Split()
    for part, layer in enumerate((split.q, split.k, split.v)):
        rows = slice(192 * part, 192 * (part + 1))
        layer.weight.data, layer.bias.data = fused.weight.data[rows], fused.bias.data[rows]
    config = peft.LoraConfig(r=3, lora_alpha=12, lora_dropout=0.0, target_modules=["q", "v"])
    theirs = peft.get_peft_model(split, config, autocast_adapter_dtype=False)
    pairs = []
    for name in ("q", "v"):
        layer, mine = theirs.get_submodule(f"base_model.model.{name}"), ours.get_submodule(name)
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        a.data, b.data = mine.down.data.clone(), mine.up.data.clone()
        pairs += [(mine.down, a), (mine.up, b)]
    x, weights = torch.randn(2, 7, 192, dtype=torch.float64), torch.randn(2, 7, 576, dtype=torch.float64)
    mine, other = fused(x), theirs(x)
    torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)
    (mine * weights).sum().backward()
    (other * weights).sum().backward()
    for our, their in pairs:
        torch.testing.assert_close(our.grad, their.grad, rtol=1e-10, atol=1e-12)
    theirs.merge_and_unload()
    merge(model)
    torch.testing.assert_close(fused.weight, torch.cat([m.weight for m in (split.q, split.k, split.v)]))


def test_a_is_kaiming_and_b_is_zero_at_the_start(make):
    state = tuned_state_dict(apply(make("gap"), lora(64, (0,))))
    for name in ("q", "v"):
        down = state[f"lora.blocks.0.{name}.down"]
        assert not state[f"lora.blocks.0.{name}.up"].any()
        assert 0.98 / math.sqrt(192) < down.abs().max() <= 1 / math.sqrt(192)
        assert down.std().item() == pytest.approx(1 / math.sqrt(3 * 192), rel=0.03)
    assert not torch.equal(state["lora.blocks.0.q.down"], state["lora.blocks.0.v.down"])


def test_with_an_alpha_the_scale_follows_the_active_rank():
    module = LowRank(4, 4, 8, alpha=8.0, dropout=0.0)
    assert module.scale == 1.0
    module.narrow(2)
    assert module.scale == 4.0
    assert LowRank(4, 4, 8, alpha=None, dropout=0.0).scale == 1.0


def test_narrowing_with_an_alpha_equals_a_fresh_module():
    large, small = LowRank(6, 5, 8, alpha=4.0, dropout=0.0), LowRank(6, 5, 3, alpha=4.0, dropout=0.0)
    torch.nn.init.normal_(large.up)
    small.load_state_dict(large.sliced_state(3))
    large.narrow(3)
    x = torch.randn(2, 6)
    torch.testing.assert_close(large(x), small(x))
    torch.testing.assert_close(large(x), x @ large.delta().T)


def test_dropout_acts_on_the_input_in_training_only():
    module = LowRank(1000, 1, 1, alpha=None, dropout=0.25)
    torch.nn.init.ones_(module.down)
    torch.nn.init.ones_(module.up)
    x = torch.ones(1, 1000)
    assert module.eval()(x).item() == 1000
    kept = module.train()(x).item() * 0.75
    assert kept == pytest.approx(750, abs=70) and kept != 750


def test_a_narrowed_lora_merges_what_it_computes(tuned, images):
    model = tuned(lora(alpha=6), "gap", double=True)
    for module in model.petl.modules():
        if isinstance(module, LowRank):
            module.narrow(2)
    with torch.no_grad():
        expected = model(images(model))
        torch.testing.assert_close(merge(model)(images(model)), expected, rtol=1e-9, atol=1e-9)
