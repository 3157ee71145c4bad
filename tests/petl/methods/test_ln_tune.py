from __future__ import annotations

import pytest

from petlas.petl import Design, Placement, apply, count_params, count_tuned, shape_by_name

WHOLE = Design.of([Placement("ln_tune")])


def trained(model):
    return {path for path, p in model.named_parameters(remove_duplicate=False) if p.requires_grad} - {
        f"petl.{path}" for path, _ in model.petl.named_parameters()
    }


@pytest.mark.parametrize(("kind", "last"), [("plain", "norm"), ("dinov2", "norm"), ("gap", "fc_norm")])
def test_every_norm_is_trained_and_nothing_else(kind, last, make):
    model = apply(make(kind), WHOLE)
    norms = [f"blocks.{i}.norm{n}" for i in range(3) for n in (1, 2)] + [last]
    expected = {f"{norm}.{name}" for norm in norms for name in ("weight", "bias")}
    assert trained(model) == expected | {"head.weight", "head.bias"}


def test_at_a_block_it_takes_that_blocks_norms(make):
    model = apply(make("plain", depth=12), Design.of([Placement("ln_tune", 1)]))
    assert {path for path in trained(model) if "head" not in path} == {
        f"blocks.1.norm{n}.{name}" for n in (1, 2) for name in ("weight", "bias")
    }


def test_norms_of_queries_and_keys_are_norms_too(make):
    plain, normed = make("plain"), make("plain", qk_norm=True)
    more = count_params(WHOLE, normed) - count_params(WHOLE, plain)
    assert more == 3 * 2 * 2 * 64
    assert count_params(WHOLE, normed) == count_tuned(apply(normed, WHOLE))


def test_vit_base_has_25_norms_of_768_channels():
    assert count_params(WHOLE, shape_by_name("vit_base_patch16_224")) == 25 * 2 * 768 == 38_400
