from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from petlas.petl import (
    Design,
    Placement,
    apply,
    count_params,
    load_adapter,
    remove,
    save_adapter,
    shape_by_name,
    shape_of,
)
from petlas.petl import tuned_state_dict as state_of
from petlas.petl.methods.hst import stages_of

DIMS, HEADS = (32, 48, 64, 72), (2, 4, 8, 12)


def hst(*others):
    return Design.of([Placement("hst"), *others])


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [("plain", {}), ("gap", {}), ("dinov2", {"img_size": (28, 56), "depth": 5}), ("plain", {"depth": 2})],
)
def test_logits_and_gradients_are_those_of_the_formula(kind, arguments, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        """MetaG in front, as the authors have it, and features resized before they cross the bridge."""

        def own(self, path):
            return self.p[f"petl.hst.{path}"]

        def linear_of(self, path, x):
            return x @ self.own(f"{path}.weight").T + self.own(f"{path}.bias")

        def norm_of(self, path, x, eps=1e-6):
            centred = x - x.mean(-1, keepdim=True)
            z = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
            return z * self.own(f"{path}.weight") + self.own(f"{path}.bias")

        def ask(self, path, x, g, heads):
            dim = x.shape[-1]
            q, (k, v) = self.linear_of(f"{path}.q", x), self.linear_of(f"{path}.kv", g).split(dim, dim=-1)
            found = []
            for part in torch.arange(dim).split(dim // heads):
                scores = q[..., part] @ k[..., part].transpose(1, 2) / (dim // heads) ** 0.5
                found.append(scores.softmax(-1) @ v[..., part])
            return self.linear_of(f"{path}.proj", torch.cat(found, dim=-1))

        def embedding(self, stage, x):
            path = f"stages.{stage}.embed"
            if stage:
                return F.conv2d(x, self.own(f"{path}.weight"), self.own(f"{path}.bias"), stride=2, padding=1)
            x = F.conv2d(x, self.own(f"{path}.0.weight"), stride=2, padding=1)
            mean, var = (self.own(f"{path}.1.running_{name}").view(-1, 1, 1) for name in ("mean", "var"))
            x = (x - mean) / (var + 1e-5).sqrt()
            x = x * self.own(f"{path}.1.weight").view(-1, 1, 1) + self.own(f"{path}.1.bias").view(-1, 1, 1)
            return F.conv2d(x.clamp(min=0), self.own(f"{path}.3.weight"), self.own(f"{path}.3.bias"), stride=2)

        def forward(self, images):
            self.p = dict(self.model.named_parameters(remove_duplicate=False)) | dict(self.model.named_buffers())
            x, read, skip = self.embed(images), [], self.model.num_prefix_tokens
            for i in range(self.depth):
                meta = self.own("tokens")[i].expand(len(x), 1, -1)
                x = self.block(i, torch.cat([meta, x], dim=1))
                grid = x[:, 1 + skip :].transpose(1, 2).unflatten(2, self.model.patch_embed.grid_size)
                read.append((x[:, :1], grid))
                x = x[:, 1:]
            m = images
            for stage in range(4):
                m = self.embedding(stage, m)
                size = m.shape[-2:]
                m = self.norm_of(f"stages.{stage}.embed_norm", m.flatten(2).transpose(1, 2), 1e-5)
                blocks = [i for i in range(self.depth) if i * 4 // self.depth == stage]
                for j, i in enumerate(blocks):
                    path, (meta, grid) = f"stages.{stage}.blocks.{j}", read[i]
                    f = F.interpolate(grid, size=size, mode="bilinear", align_corners=False)
                    f = self.linear_of(f"stages.{stage}.bridge", f.flatten(2).transpose(1, 2))
                    meta = self.norm_of(
                        f"stages.{stage}.meta_norms.{j}", self.linear_of(f"stages.{stage}.bridge", meta), 1e-5
                    )
                    g = torch.cat([meta, f.mean(1, keepdim=True)], dim=1)
                    m = m + self.ask(path, self.norm_of(f"{path}.norm1", m), g, HEADS[stage])
                    m = m + f
                    hidden = self.linear_of(f"{path}.fc1", self.norm_of(f"{path}.norm2", m))
                    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
                    m = m + self.linear_of(f"{path}.fc2", hidden)
                m = self.norm_of(f"stages.{stage}.norm", m).transpose(1, 2).unflatten(2, size)
            pooled = m.mean((2, 3))
            pooled = (pooled - self.own("pooled_norm.running_mean")) / (
                self.own("pooled_norm.running_var") + 1e-6
            ).sqrt()
            return pooled @ self.w["head.weight"].T + self.w["head.bias"]

    model = tuned(hst(), kind, double=True, **arguments)
    for path, buffer in model.petl.hst.named_buffers():
        if path.endswith(("mean", "var")):
            buffer.uniform_(0.5, 1.5)
    same_as_by_hand(model, Formulas(model))


def test_the_published_number_of_parameters_and_its_parts():
    shape = shape_by_name("vit_base_patch16_224")
    assert count_params(Design.of([Placement("hst")]), shape) == 764_840 == 727_976 + 24 * 2 * 768


def test_blocks_belong_to_stages_in_quarters():
    assert stages_of(12) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert stages_of(24) == [stage for stage in range(4) for _ in range(6)]
    assert stages_of(3) == [0, 1, 2] and stages_of(2) == [0, 2]


def test_the_head_reads_72_channels_and_comes_back_as_it_was(make, images, tmp_path):
    model = make("plain")
    before, expected = model.head.weight.clone(), model(images(model))
    apply(model, hst())
    assert model.head.weight.shape == (5, 72)
    assert dict(model.petl.named_parameters())["head.weight"] is model.head.weight
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.15)
    save_adapter(model, tmp_path / "a.safetensors")
    loaded = load_adapter(tmp_path / "a.safetensors", make("plain"))
    assert torch.equal(loaded(images(model)), model(images(model)))
    assert torch.equal(remove(model).head.weight, before)
    assert torch.equal(model(images(model)), expected)


def test_the_norms_of_all_blocks_are_tuned_and_the_final_one_is_not(make):
    model = apply(make("plain"), hst())
    trained = {
        path for path, p in model.named_parameters() if p.requires_grad and not path.startswith(("petl", "head"))
    }
    norms = {f"blocks.{i}.norm{j}.{name}" for i in range(3) for j in (1, 2) for name in ("weight", "bias")}
    assert trained == norms


def test_each_block_sees_one_token_more_and_the_stream_stays_as_long_as_it_was(make, images):
    model = apply(make("dinov2"), hst(Placement("vpt", 1, 3)))
    inside, outside = [], []
    for block in model.blocks:
        block.norm1.register_forward_hook(lambda _, args, __: inside.append(args[0].shape[1]))
        block.register_forward_hook(lambda _, __, output: outside.append(output.shape[1]))
    model(images(model))
    assert (inside, outside) == ([10, 13, 13], [9, 12, 12])


def test_what_it_reads_of_a_block_are_the_patches_and_the_token(tuned, images):
    model = tuned(hst(Placement("vpt", 0, 2)), "dinov2")
    raw, read = [], []
    model.blocks[0].drop_path2.register_forward_hook(lambda _, __, output: raw.append(output))
    model.petl.hst.stages[0].bridge.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    model.blocks[0].norm2.register_forward_pre_hook(lambda _, args: raw.append(args[0]))
    model(images(model))
    whole = raw[0] + raw[1]
    assert torch.equal(read[0], torch.cat([whole[:, 5:9], whole[:, 11:]], dim=1))


def test_weights_start_as_the_authors_draw_them(make):
    model = make("plain")
    shape = shape_of(model)
    state = state_of(apply(model, hst()))
    tokens = state["hst.tokens"]
    assert tokens.shape == (shape.depth, shape.width)
    assert 0.95 * (3 / 192) ** 0.5 < tokens.abs().max() <= (3 / 192) ** 0.5
    assert state["hst.stages.0.bridge.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert state["hst.stages.2.embed.weight"].std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    biases = [key for key in state if key.endswith("bias") and ".backbone." not in key and not key.startswith("head")]
    assert biases and not any(state[key].any() for key in biases)


def test_in_training_the_pooled_features_are_normalised_over_the_batch(make, images):
    model = apply(make("gap"), hst()).train()
    seen = []
    model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(images(model, 8))
    torch.testing.assert_close(seen[0].mean(0), torch.zeros(72), rtol=0, atol=1e-5)
