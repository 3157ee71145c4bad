from __future__ import annotations

import pytest
import torch

from petlas.petl import Design, Placement, apply, count_params, count_tuned, tuned_state_dict

WHOLE = Design.of([Placement("bitfit")])


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
def test_every_bias_is_trained_and_nothing_else(kind, make):
    model = apply(make(kind), WHOLE)
    trained = {path for path, p in model.named_parameters() if p.requires_grad}
    assert trained == {path for path, _ in model.named_parameters() if path.endswith("bias")} | {"head.weight"}


def test_at_a_block_it_takes_that_blocks_biases(make):
    model = apply(make("plain", depth=12), Design.of([Placement("bitfit", 1)]))
    trained = {path for path, p in model.named_parameters() if p.requires_grad and not path.startswith("head.")}
    assert trained == {path for path, _ in model.named_parameters() if path.startswith("blocks.1.") and "bias" in path}


def test_layers_without_a_bias_are_left_out(make):
    model = make("gap", qkv_bias=False)
    assert count_params(WHOLE, model) == count_tuned(apply(model, WHOLE)) == 3 * 8 * 192 + 2 * 192
    assert not any("qkv" in key for key in tuned_state_dict(model))


def test_the_trained_tensors_are_the_models_own(make, images):
    model = apply(make("gap"), WHOLE)
    bias = tuned_state_dict(model)["bitfit.blocks.0.attn.proj.bias"]
    with torch.no_grad():
        bias.fill_(3.0)
    assert (model.blocks[0].attn.proj.bias == 3.0).all()
