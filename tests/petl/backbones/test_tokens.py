from __future__ import annotations

import pytest
import torch
from timm.layers.pos_embed_sincos import apply_rot_embed_cat

from petlas.petl import family_of, get_family
from petlas.petl.backbones.tokens import lengthened


@pytest.mark.parametrize("half", [False, True])
def test_rotations_that_join_turn_nothing(half):
    angles = torch.randn(5, 8)
    turns = torch.cat((angles.sin(), angles.cos()), dim=-1)
    x = torch.randn(2, 3, 7, 8)
    turned = apply_rot_embed_cat(x, lengthened(turns, 2), half=half)
    torch.testing.assert_close(turned[:, :, 5:], x[:, :, 5:])
    torch.testing.assert_close(turned[:, :, :5], apply_rot_embed_cat(x[:, :, :5], turns, half=half))


@pytest.mark.parametrize("family", ["eva", "beit"])
def test_a_stream_of_tokens_has_one_width_and_one_grid(family, small):
    model = small(family)
    assert family_of(model) is get_family(family)
    (stage,) = get_family(family).stages(model)
    assert (stage.depth, stage.width, stage.grid) == (2, 32, (2, 2))
    assert get_family(family).block_paths(model) == ["blocks.0", "blocks.1"]
    assert get_family(family).blocks(model) == [model.blocks[0], model.blocks[1]]
