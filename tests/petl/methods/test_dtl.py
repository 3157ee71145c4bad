from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from petlas.petl import Design, DesignError, Placement, apply, count_params, shape_by_name, tuned_state_dict
from petlas.petl.methods.dtl import first_fed

every_kind = pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])


def dtl(name="dtl", rank=2, *others, **options):
    return Design.of([Placement(name, None, rank, options), *others])


def formulas_of(by_hand, name, first, **options):
    """The stream of the backbone's P tokens with the chain beside it; prompts of VPT may stand behind them."""

    class Formulas(by_hand):
        prompts = 0

        def before(self, i, x):
            tokens = self.w.get(f"petl.vpt.blocks.{i}.tokens")
            if i == 0:
                self.own, self.s = x.shape[1], 0.0
            if tokens is not None:
                x = torch.cat([x[:, : self.own], tokens.expand(len(x), -1, -1)], dim=1)
            up, down = (self.w[f"petl.{name}.blocks.{i}.{part}"] for part in ("up", "down"))
            self.s = self.s + x[:, : self.own] @ down.T @ up.T
            return x

        def block(self, i, x):
            x = super().block(i, x)
            if i < first:
                return x
            added = self.s / (1 + torch.exp(-options.get("beta", 100) * self.s))
            if name == "dtl_plus":
                (rows, columns), skip = self.model.patch_embed.grid_size, self.model.num_prefix_tokens
                kernel = self.w["petl.dtl_plus.conv.weight"]
                grid = added[:, skip:].reshape(len(x), rows, columns, -1)
                mixed, reach = torch.zeros_like(grid), kernel.shape[-1] // 2
                padded = F.pad(grid, (0, 0, reach, reach, reach, reach))
                for dy in range(2 * reach + 1):
                    for dx in range(2 * reach + 1):
                        mixed = mixed + padded[:, dy : dy + rows, dx : dx + columns] * kernel[:, 0, dy, dx]
                added = torch.cat([added[:, :skip], mixed.flatten(1, 2)], dim=1)
            return torch.cat([x[:, : self.own] + added, x[:, self.own :]], dim=1)

        def leave(self, x):
            x = x[:, : self.own]
            if options.get("pool") == "patches":
                x = x[:, self.model.num_prefix_tokens :].mean(1, keepdim=True).expand_as(x)
            return x

    return Formulas


@every_kind
@pytest.mark.parametrize("name", ["dtl", "dtl_plus"])
@pytest.mark.parametrize("options", [{}, {"pool": "patches", "beta": 3}])
def test_logits_and_gradients_are_those_of_the_formula(kind, name, options, tuned, by_hand, same_as_by_hand):
    model = tuned(dtl(name, **options), kind, double=True)
    same_as_by_hand(model, formulas_of(by_hand, name, 1, **options)(model))


@pytest.mark.parametrize("kernel", [3, 5])
def test_on_an_oblong_grid_with_prompts_too(kernel, tuned, by_hand, same_as_by_hand):
    prompts = [Placement("vpt", 0, 2), Placement("vpt", 1, 3)]
    model = tuned(dtl("dtl_plus", 2, *prompts, kernel=kernel), "dinov2", double=True, img_size=(28, 56))
    same_as_by_hand(model, formulas_of(by_hand, "dtl_plus", 1)(model))


def test_the_published_numbers_of_parameters():
    shape = shape_by_name("vit_base_patch16_224")
    for name, options, count in (("dtl", {}, 36_864), ("dtl_plus", {}, 43_776), ("dtl_plus", {"kernel": 5}, 56_064)):
        assert count_params(Design.of([Placement(name, None, 2, options)]), shape) == count


def test_the_second_half_of_the_blocks_is_fed_and_always_more_than_the_last():
    assert [first_fed(depth) for depth in (12, 24, 7, 4, 3, 2, 1)] == [6, 12, 3, 2, 1, 0, 0]


def test_blocks_in_front_of_the_fed_ones_run_without_gradients(tuned, images):
    model = tuned(dtl(), "gap", depth=12)
    entering = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, args: entering.append(args[0].requires_grad))
    model(images(model)).sum().backward()
    assert entering == [False] * 7 + [True] * 5
    assert all(p.grad is not None for p in model.petl.parameters())


def test_with_the_patches_pooled_the_class_token_is_not_read(tuned, images):
    for options, same in (({"pool": "patches"}, True), ({}, False)):
        model = tuned(dtl(**options), "plain")
        before = model(images(model))
        model.blocks[2].register_forward_hook(
            lambda _, __, output: output * (torch.arange(output.shape[1]) > 0)[:, None]
        )
        assert torch.equal(model(images(model)), before) is same


def test_the_chain_starts_as_lora_does(make):
    state = tuned_state_dict(apply(make("gap"), dtl("dtl_plus", 32)))
    for block in range(3):
        assert not state[f"dtl_plus.blocks.{block}.up"].any()
        assert 0.98 / 192**0.5 < state[f"dtl_plus.blocks.{block}.down"].abs().max() <= 1 / 192**0.5
    assert state["dtl_plus.conv.weight"].shape == (192, 1, 3, 3)


def test_checkpointed_blocks_get_the_same_gradients_with_others_in_the_design(tuned, images):
    others = [Placement("vpt", 0, 2), Placement("adaptformer", 2, 2), Placement("lora", 1, 2), Placement("hst")]
    model = tuned(dtl("dtl_plus", 2, *others), "dinov2", double=True)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(images(model)).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.petl.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-9, atol=1e-12)


def test_unknown_values_of_options_are_refused(make):
    with pytest.raises(DesignError, match=r"pool of dtl must be head .* or patches, got pool='mean'"):
        apply(make("gap"), dtl(pool="mean"))
    for kernel in (2, 0, 9, 3.5):
        with pytest.raises(DesignError, match=f"kernel of dtl_plus must be 1, 3, 5 or 7, got kernel={kernel}"):
            apply(make("gap"), dtl("dtl_plus", kernel=kernel))
