from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from petlas.petl import Design, Placement, apply, count_params, get_method, shape_by_name, tuned_state_dict

SITES = {"convpass": ("attn", "mlp"), "convpass_attn": ("attn",)}
both = pytest.mark.parametrize("name", SITES)
grids = pytest.mark.parametrize(
    ("kind", "arguments", "grid"),
    [("plain", {}, (2, 2)), ("dinov2", {}, (2, 2)), ("gap", {}, (3, 3)), ("plain", {"img_size": (32, 64)}, (2, 4))],
    ids=["class", "registers", "patches", "oblong"],
)


def design(name, size=3, blocks=(0, 2), **options):
    return Design.of(Placement(name, block, size, options) for block in blocks)


def quick_gelu(z):
    return z / (1 + torch.exp(-1.702 * z))


def convolved(z, weight, bias, first, grid):
    """3 x 3 over the patches as a sum of shifted maps, and the centre of the kernel on every other token."""
    rows, columns = grid
    outputs = z @ weight[:, :, 1, 1].T + bias
    patches = z[:, first : first + rows * columns].reshape(len(z), rows, columns, -1)
    padded = F.pad(patches, (0, 0, 1, 1, 1, 1))
    total = sum(
        padded[:, dy : dy + rows, dx : dx + columns] @ weight[:, :, dy, dx].T for dy in range(3) for dx in range(3)
    )
    behind = outputs[:, first + rows * columns :]
    return torch.cat([outputs[:, :first], (total + bias).flatten(1, 2), behind], dim=1)


def bypass(w, key, n, first, grid):
    hidden = quick_gelu(n @ w[f"{key}.down"].T + w[f"{key}.down_bias"])
    hidden = quick_gelu(convolved(hidden, w[f"{key}.conv"], w[f"{key}.conv_bias"], first, grid))
    return hidden @ w[f"{key}.up"].T + w[f"{key}.up_bias"]


@pytest.fixture
def formulas(by_hand):
    class Formulas(by_hand):
        def __init__(self, model, name, grid, scale):
            super().__init__(model)
            self.name, self.grid, self.scale, self.normed = name, grid, scale, {}

        def after(self, path, z, x):
            self.normed[path] = z
            return z

        def add(self, i, site, norm, z):
            key = f"petl.{self.name}.blocks.{i}.{site}.bottleneck"
            if f"{key}.down" not in self.w:
                return z
            n = self.normed[f"blocks.{i}.{norm}"]
            return z + self.scale * bypass(self.w, key, n, self.model.num_prefix_tokens, self.grid)

        def attn_branch(self, i, o):
            return self.add(i, "attn", "norm1", o)

        def branch(self, i, m):
            return self.add(i, "mlp", "norm2", m)

        def before(self, i, x):
            tokens = self.w.get(f"petl.vpt.blocks.{i}.tokens")
            return x if tokens is None else torch.cat([x, tokens.expand(len(x), -1, -1)], dim=1)

        def leave(self, x):
            prompts = self.w.get("petl.vpt.blocks.0.tokens")
            return x if prompts is None else x[:, : -len(prompts)]

    return Formulas


@grids
@pytest.mark.parametrize(
    ("name", "options", "scale"), [("convpass", {}, 1.0), ("convpass_attn", {"scale": 0.1, "identity": True}, 0.1)]
)
def test_logits_and_gradients_are_those_of_the_formula(
    name, kind, arguments, grid, options, scale, tuned, formulas, same_as_by_hand
):
    model = tuned(design(name, **options), kind, double=True, **arguments)
    same_as_by_hand(model, formulas(model, name, grid, scale))


@grids
def test_prompts_behind_the_patches_are_convolved_alone(kind, arguments, grid, tuned, formulas, same_as_by_hand):
    together = Design.of([*design("convpass").placements, Placement("vpt", 0, 3)])
    model = tuned(together, kind, double=True, **arguments)
    same_as_by_hand(model, formulas(model, "convpass", grid, 1.0))


def test_the_grid_is_that_of_each_batch_of_images(tuned):
    model = tuned(design("convpass_attn", blocks=(1,)), "plain", double=True, dynamic_img_size=True)
    seen = {}
    block, w = model.blocks[1], {f"key.{k.rpartition('.')[2]}": v for k, v in tuned_state_dict(model).items()}
    block.norm1.register_forward_hook(lambda _, args, output: seen.update(n=output))
    block.attn.register_forward_hook(lambda _, args, output: seen.update(o=output))
    block.norm2.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    block.norm1.register_forward_pre_hook(lambda _, args: seen.update(entered=args[0]))
    for height, width in ((64, 32), (32, 80), (32, 32)):
        with torch.no_grad():
            model(torch.randn(2, 3, height, width, dtype=torch.float64))
            expected = seen["entered"] + seen["o"] + bypass(w, "key", seen["n"], 1, (height // 16, width // 16))
        torch.testing.assert_close(seen["x"], expected, rtol=1e-9, atol=1e-9)


def test_the_counts_are_the_published_ones():
    shape = shape_by_name("vit_base_patch16_224")
    for name, count in (("convpass", 327_552), ("convpass_attn", 163_776)):
        method = get_method(name)
        assert count_params(Design.of(method.baseline(shape, 8)), shape) == count


@both
def test_down_and_convolution_start_xavier_and_the_rest_at_zero(name, make):
    state = tuned_state_dict(apply(make("gap"), design(name, 32)))
    for site in SITES[name]:
        key = f"{name}.blocks.2.{site}.bottleneck"
        for leaf, bound in (("down", math.sqrt(6 / (192 + 32))), ("conv", math.sqrt(6 / (2 * 9 * 32)))):
            assert 0.98 * bound < state[f"{key}.{leaf}"].abs().max() <= bound
            assert state[f"{key}.{leaf}"].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
        assert not any(state[f"{key}.{leaf}"].any() for leaf in ("up", "down_bias", "conv_bias", "up_bias"))


def test_the_convolution_can_start_as_the_identity(make):
    state = tuned_state_dict(apply(make("gap"), design("convpass", 5, identity=True)))
    conv = state["convpass.blocks.0.mlp.bottleneck.conv"]
    z = torch.randn(2, 5, 3, 4)
    assert torch.equal(F.conv2d(z, conv, padding=1), z)


def test_the_branch_has_a_drop_path_of_its_own(make):
    model = make("gap", drop_path_rate=0.5)
    apply(model, design("convpass_attn", blocks=(2,), dropout=0))
    block = model.blocks[2]
    with torch.no_grad():
        for p in block.parameters():
            p.zero_()
        block.attn.proj.bias.fill_(1.0)
        model.petl.get_submodule("convpass_attn.blocks.2.attn.bottleneck").up_bias.fill_(10.0)
        x = torch.zeros(200, 9, 192)
        values = block.train()(x)[:, 0, 0]
    assert set(values.tolist()) == {0.0, 2.0, 20.0, 22.0}


def test_dropout_is_on_by_default_in_training_and_can_be_turned_off(make, shake, images):
    for options, same in (({}, False), ({"dropout": 0}, True)):
        model = apply(make("gap"), design("convpass", **options))
        shake(model)
        model.train()
        with torch.no_grad():
            assert torch.equal(model(images(model)), model(images(model))) is same


@both
def test_no_activation_is_kept_after_the_forward_pass(name, tuned, images):
    model = tuned(design(name), "gap")
    model(images(model))
    assert all(getattr(m, "_carried", None) is None for m in model.petl.modules())
