from __future__ import annotations

import math

import pytest
import torch

from petlas.petl import Design, Placement, apply, tuned_state_dict


def vpt(**sizes):
    """Tokens by block: `vpt(b0=2, b3=1)`."""
    return Design.of(Placement("vpt", int(block[1:]), size) for block, size in sizes.items())


DEEP = vpt(b0=2, b1=3, b2=1)
SHALLOW = vpt(b0=4)
GAP = vpt(b0=2, b2=3)
LATE = vpt(b1=2)
every_kind = pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
every_design = pytest.mark.parametrize("design", [DEEP, SHALLOW, GAP, LATE], ids=["deep", "shallow", "gap", "late"])


@every_kind
@every_design
def test_logits_and_gradients_are_those_of_the_formula(kind, design, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        """The tokens stand right behind the class token here: their place must make no difference."""

        present = 0

        def before(self, i, x):
            tokens = self.w.get(f"petl.vpt.blocks.{i}.tokens")
            if tokens is None:
                return x
            first = self.model.num_prefix_tokens
            head, tail = x[:, :first], x[:, first + self.present :]
            self.present = len(tokens)
            return torch.cat([head, tokens.expand(len(x), -1, -1), tail], dim=1)

        def leave(self, x):
            first = self.model.num_prefix_tokens
            x, self.present = torch.cat([x[:, :first], x[:, first + self.present :]], dim=1), 0
            return x

    model = tuned(design, kind, double=True)
    same_as_by_hand(model, Formulas(model))


def lengths(model, images):
    """The number of tokens that each block sees, then the number that leaves."""
    seen = []
    handles = [b.norm1.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[1])) for b in model.blocks]
    seen.append(model.forward_features(images(model)).shape[1])
    for handle in handles:
        handle.remove()
    return seen[:-1], seen[-1]


@pytest.mark.parametrize(
    ("design", "added"),
    [(DEEP, (2, 3, 1)), (SHALLOW, (4, 4, 4)), (GAP, (2, 2, 3)), (LATE, (0, 2, 2))],
    ids=["deep", "shallow", "gap", "late"],
)
@pytest.mark.parametrize("kind", ["dinov2", "gap"])
def test_each_block_sees_its_tokens_and_the_backbones_number_leaves(kind, design, added, make, images):
    model = make(kind)
    plain, left = lengths(model, images)
    assert plain == [left] * 3
    apply(model, design)
    assert lengths(model, images) == ([left + tokens for tokens in added], left)


def test_deep_tokens_replace_what_the_block_before_made_of_its_own(tuned, images):
    model = tuned(DEEP, "dinov2")
    entering = {}
    for i, block in enumerate(model.blocks):
        block.norm1.register_forward_hook(lambda _, args, __, i=i: entering.update({i: args[0]}))
    model(images(model))
    for i, size in ((0, 2), (1, 3), (2, 1)):
        tokens = tuned_state_dict(model)[f"vpt.blocks.{i}.tokens"]
        assert torch.equal(entering[i][:, -size:], tokens.expand(2, -1, -1))


def test_over_a_gap_the_tokens_flow_on_as_the_block_changed_them(tuned, images):
    model = tuned(GAP, "dinov2")
    streams = []
    model.blocks[0].register_forward_hook(lambda _, __, output: streams.append(output))
    model.blocks[1].norm1.register_forward_hook(lambda _, args, __: streams.append(args[0]))
    model(images(model))
    left, entered = streams
    assert torch.equal(left, entered)
    assert not torch.equal(entered[:, -2:], tuned_state_dict(model)["vpt.blocks.0.tokens"].expand(2, -1, -1))


def test_tokens_start_uniform_in_the_published_bound(make):
    state = tuned_state_dict(apply(make("plain"), vpt(b0=50)))
    bound = math.sqrt(6 / (3 * 16 * 16 + 192))
    tokens = state["vpt.blocks.0.tokens"]
    assert 0.98 * bound < tokens.abs().max() <= bound
    assert tokens.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)


def test_the_order_of_the_placements_does_not_matter(make, images):
    outputs = []
    for order in (1, -1):
        torch.manual_seed(0)
        model = apply(make("gap"), Design(DEEP.placements[::order]))
        outputs.append(model(images(model)))
    assert torch.equal(*outputs)


def test_tokens_in_front_of_ten_and_more_blocks_stand_in_the_order_of_the_blocks(make, images):
    model = apply(make("plain", depth=12), vpt(**{f"b{i}": i + 1 for i in range(12)}))
    plain = model.patch_embed.num_patches + 1
    assert lengths(model, images) == ([plain + i + 1 for i in range(12)], plain)


@pytest.mark.parametrize(
    ("design", "added"),
    [(DEEP, (0, 0, 0)), (SHALLOW, (4, 4, 4)), (GAP, (2, 2, 0)), (LATE, (0, 2, 2))],
    ids=["deep", "shallow", "gap", "late"],
)
def test_tokens_that_leave_behind_a_block_are_not_led_through_its_mlp(design, added, tuned, images):
    model = tuned(design, "dinov2")
    own = model.patch_embed.num_patches + model.num_prefix_tokens
    seen = []
    for block in model.blocks:
        block.mlp.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[1] - own))
    model(images(model))
    assert tuple(seen) == added
