from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from petlas.petl import Design, Placement, apply, count_params, count_tuned, merge, tuned_state_dict
from petlas.petl.methods.vqt import Queries


def vqt(size=2, blocks=(0, 2), **options):
    return Design.of(Placement("vqt", block, size, options) for block in blocks)


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
def test_logits_and_gradients_are_those_of_queries_in_the_sequence_that_nobody_attends_to(
    kind, tuned, by_hand, same_as_by_hand
):
    class Formulas(by_hand):
        """[Q; x] through the whole block, with keys and values of x; then one wide head."""

        def attention(self, path, x):
            n, tokens, width = x.shape
            q, k, v = (
                t.view(n, tokens, self.heads, -1).transpose(1, 2)
                for t in self.linear(f"{path}.qkv", x).split(width, dim=-1)
            )
            weights = (q @ k[:, :, self.asking :].transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
            return self.linear(
                f"{path}.proj", (weights @ v[:, :, self.asking :]).transpose(1, 2).reshape(n, tokens, width)
            )

        def block(self, i, x):
            tokens = self.w.get(f"petl.vqt.blocks.{i}.tokens", x[0, :0])
            self.asking = len(tokens)
            x = super().block(i, torch.cat([tokens.expand(len(x), -1, -1), x], dim=1))
            self.found[i] = x[:, : self.asking].flatten(1)
            return x[:, self.asking :]

        def forward(self, images):
            self.found = {}
            self.asking = 0
            logits = super().forward(images)
            wide = torch.cat([self.w[f"petl.vqt.blocks.{i}.head"].flatten(1) for i in (0, 2)], dim=1)
            return logits + torch.cat([self.found[0], self.found[2]], dim=1) @ wide.T

    model = tuned(vqt(), kind, double=True)
    same_as_by_hand(model, Formulas(model))


def test_blocks_run_as_without_queries_and_without_gradients(make, shake, images):
    model = make("dinov2")
    outputs = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, output: outputs.append(output))
    model(images(model))
    shake(apply(model, vqt()))
    model(images(model))
    for plain, tuned in zip(outputs[:3], outputs[3:], strict=True):
        assert torch.equal(plain, tuned)
        assert tuned.grad_fn is None


def test_the_heads_columns_start_at_zero_and_belong_to_the_head(make):
    model = make("plain")
    design = vqt(3)
    apply(model, design)
    state = tuned_state_dict(model)
    assert state["vqt.blocks.2.head"].shape == (5, 3, 192)
    assert not state["vqt.blocks.2.head"].any()
    assert count_tuned(model) == count_params(design, model) == 2 * 3 * 192


def test_queries_start_uniform_in_the_published_bound(make):
    tokens = tuned_state_dict(apply(make("plain"), vqt(50)))["vqt.blocks.0.tokens"]
    bound = math.sqrt(6 / (3 * 16 * 16 + 192))
    assert 0.98 * bound < tokens.abs().max() <= bound
    assert tokens.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)


def test_dropout_acts_on_the_queries_in_training_and_can_be_turned_off(make, shake, images):
    for options, same in (({}, False), ({"dropout": 0.0}, True)):
        model = apply(make("gap"), vqt(**options))
        shake(model)
        with torch.no_grad():
            assert torch.equal(model(images(model)), model(images(model)))
            model.train()
            assert torch.equal(model(images(model)), model(images(model))) is same


def test_what_others_do_to_keys_and_values_is_what_the_queries_find(tuned, images):
    model = tuned(Design.of([*vqt(1, (0,)).placements, Placement("prefix", 0, 2)]), "gap", double=True)
    block = model.blocks[0]
    queries, prefixes = (model.petl.get_submodule(f"{name}.blocks.0") for name in ("vqt", "prefix"))
    head = queries.head.clone()
    streams = []
    block.register_forward_pre_hook(lambda _, args: streams.append(args[0]))
    logits = model(images(model))
    torch.nn.init.zeros_(queries.head)
    added = logits - model(images(model))

    n, z = len(added), queries.tokens.expand(len(added), -1, -1)
    q = F.linear(block.norm1(z), block.attn.qkv.weight, block.attn.qkv.bias).chunk(3, dim=-1)[0]
    _, k, v = F.linear(block.norm1(streams[0]), block.attn.qkv.weight, block.attn.qkv.bias).chunk(3, dim=-1)
    k = torch.cat([k, prefixes.keys.expand(n, -1, -1)], dim=1)
    v = torch.cat([v, prefixes.values.expand(n, -1, -1)], dim=1)
    q, k, v = (t.view(n, t.shape[1], block.attn.num_heads, -1).transpose(1, 2) for t in (q, k, v))
    found = ((q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
    z = z + F.linear(found, block.attn.proj.weight, block.attn.proj.bias)
    z = z + block.mlp(block.norm2(z))
    torch.testing.assert_close(added, z.flatten(1) @ head.flatten(1).T, rtol=1e-9, atol=1e-9)


def test_no_activation_is_kept_after_the_forward_pass(tuned, images):
    model = tuned(vqt(), "gap")
    model(images(model))
    queries = [m for m in model.petl.modules() if isinstance(m, Queries)]
    assert len(queries) == 2
    assert all(part._known is None for part in queries)


def test_merging_is_refused(tuned):
    with pytest.raises(ValueError, match="vqt cannot"):
        merge(tuned(vqt(), "gap"))
