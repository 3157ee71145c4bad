from __future__ import annotations

import math

import pytest
import torch

from petlas.petl import Design, Placement, apply, tuned_state_dict


def shallow(size):
    return Design.of([Placement("vpt_shallow", None, size)])


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
def test_logits_and_gradients_are_those_of_the_formula(kind, tuned, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        """The tokens stand right behind the class token here: their place must make no difference."""

        def before(self, i, x):
            if i > 0:
                return x
            head, tail = x.tensor_split((self.model.num_prefix_tokens,), dim=1)
            return torch.cat([head, self.w["petl.vpt_shallow.tokens"].expand(len(x), -1, -1), tail], dim=1)

        def leave(self, x):
            first = self.model.num_prefix_tokens
            return torch.cat([x[:, :first], x[:, first + 4 :]], dim=1)

    model = tuned(shallow(4), kind, double=True)
    same_as_by_hand(model, Formulas(model))


def test_it_computes_what_vpt_at_the_first_block_alone_does(make, images):
    ours, theirs = apply(make("gap"), shallow(3)), apply(make("gap"), Design.of([Placement("vpt", 0, 3)]))
    theirs.petl.get_submodule("vpt.blocks.0").load_state_dict(ours.petl.get_submodule("vpt_shallow").state_dict())
    assert torch.equal(ours(images(ours)), theirs(images(theirs)))


def test_beside_deep_tokens_each_keep_their_own(tuned, images):
    model = tuned(Design.of([Placement("vpt_shallow", None, 2), *(Placement("vpt", i, 3) for i in (0, 2))]), "dinov2")
    entering = []
    for block in model.blocks:
        block.norm1.register_forward_hook(lambda _, args, __: entering.append(args[0]))
    left = model.forward_features(images(model)).shape[1]
    assert [x.shape[1] for x in entering] == [left + 5] * 3
    state = tuned_state_dict(model)
    assert torch.equal(entering[0][:, -5:-3], state["vpt_shallow.tokens"].expand(2, -1, -1))
    for i in (0, 2):
        assert torch.equal(entering[i][:, -3:], state[f"vpt.blocks.{i}.tokens"].expand(2, -1, -1))


def test_tokens_start_uniform_in_the_published_bound(make):
    tokens = tuned_state_dict(apply(make("plain"), shallow(50)))["vpt_shallow.tokens"]
    bound = math.sqrt(6 / (3 * 16 * 16 + 192))
    assert 0.98 * bound < tokens.abs().max() <= bound
    assert tokens.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
