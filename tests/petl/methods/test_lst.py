from __future__ import annotations

import pytest
import torch

from petlas.petl import Design, Placement, apply, count_params, shape_by_name, tuned_state_dict


def lst(width):
    return Design.of([Placement("lst", None, width)])


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
@pytest.mark.parametrize("width", [16, 12])
def test_logits_and_gradients_are_those_of_the_formula(kind, width, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        def own(self, path):
            return self.w[f"petl.lst.{path}"]

        def layer_norm(self, h, path):
            centred = h - h.mean(-1, keepdim=True)
            z = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
            return z * self.own(path) + self.own(f"{path}_bias")

        def side_block(self, i, h):
            path = f"blocks.{i}"
            a = self.layer_norm(h, f"{path}.norm1")
            weights, biases = self.own(f"{path}.qkv"), self.own(f"{path}.qkv_bias")
            q, k, v = (a @ w.T + b for w, b in zip(weights, biases, strict=True))
            heads = []
            for first in range(0, width, 8):
                part = slice(first, min(first + 8, width))
                scores = q[..., part] @ k[..., part].transpose(1, 2) / 8**0.5
                heads.append(scores.softmax(-1) @ v[..., part])
            h = h + torch.cat(heads, dim=-1) @ self.own(f"{path}.proj").T + self.own(f"{path}.proj_bias")
            b = self.layer_norm(h, f"{path}.norm2")
            for j in range(4):
                hidden = b @ self.own(f"{path}.fc1")[j].T + self.own(f"{path}.fc1_bias")[j]
                hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
                h = h + hidden @ self.own(f"{path}.fc2")[:, j].T
            return h + self.own(f"{path}.fc2_bias")

        def down(self, i, z):
            return z @ self.own(f"downs.{i}.weight").T + self.own(f"downs.{i}.bias")

        def forward(self, images):
            x = self.embed(images)
            h = self.down(0, x)
            for i in range(self.depth):
                x = self.block(i, x)
                mu = 1 / (1 + torch.exp(-self.own("gates")[i] / 0.1))
                h = self.side_block(i, mu * h + (1 - mu) * self.down(i + 1, x))
            h = self.layer_norm(h, "up.norm") @ self.own("up.weight").T + self.own("up.bias")
            h = h[:, self.model.num_prefix_tokens :].mean(1) if self.model.global_pool == "avg" else h[:, 0]
            return h @ self.w["head.weight"].T + self.w["head.bias"]

    model = tuned(lst(width), kind, double=True)
    same_as_by_hand(model, Formulas(model))


def test_an_eighth_of_a_base_transformer_has_the_published_number_of_parameters():
    shape = shape_by_name("vit_base_patch16_224")
    assert count_params(Design.of([Placement("lst", None, 96)]), shape) == 2_376_492


def test_it_starts_as_a_vision_transformer_does_with_open_gates(make):
    state = tuned_state_dict(apply(make("gap"), lst(48)))
    assert not state["lst.gates"].any()
    for name, value in state.items():
        if name.startswith("lst.") and name.endswith("bias"):
            assert not value.any(), name
        elif name.endswith(("norm", "norm1", "norm2")):
            assert (value == 1).all(), name
    for name in ("downs.3.weight", "blocks.2.qkv", "blocks.0.fc2", "up.weight"):
        assert state[f"lst.{name}"].std().item() == pytest.approx(0.02, rel=0.05), name


def test_the_head_keeps_its_width(make):
    model = make("gap")
    before = model.head.weight.shape
    assert apply(model, lst(8)).head.weight.shape == before


def test_registers_and_class_token_climb_the_ladder_too(tuned, images):
    model = tuned(lst(8), "dinov2")
    seen = []
    model.petl.lst.blocks[0].register_forward_hook(lambda _, args, __: seen.append(args[0].shape))
    model(images(model))
    assert seen == [(2, 1 + 4 + 4, 8)]
