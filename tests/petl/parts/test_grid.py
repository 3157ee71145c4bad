from __future__ import annotations

import dataclasses

import pytest
import torch

from petlas.petl import shape_of
from petlas.petl.parts.grid import TokenGrid


def grid_of(make, prefix, grid):
    shape = shape_of(make("gap"))
    stages = tuple(dataclasses.replace(stage, grid=grid) for stage in shape.stages)
    return TokenGrid(dataclasses.replace(shape, prefix_tokens=prefix, stages=stages))


def moved(z):
    """Every token takes the value of its right neighbour, zero at the border, plus one."""
    return torch.nn.functional.pad(z, (0, 1))[..., 1:] + 1


@pytest.mark.parametrize(("prefix", "prompts"), [(0, 0), (1, 0), (5, 0), (0, 3), (1, 3), (5, 2)])
def test_patches_are_one_map_in_rows_and_every_other_token_a_map_of_its_own(prefix, prompts, make):
    z = torch.randn(2, prefix + 6 + prompts, 4)
    expected = torch.ones_like(z)  # a map of 1 x 1 has no neighbour
    for row in range(2):
        for column in range(2):
            token = prefix + 3 * row + column
            expected[:, token] = z[:, token + 1] + 1
    torch.testing.assert_close(grid_of(make, prefix, (2, 3))(z, moved), expected)


def test_channels_may_change_within_the_map(make):
    z = torch.randn(2, 8, 4)
    doubled = grid_of(make, 1, (2, 3))(z, lambda m: torch.cat((m, 2 * m), dim=1))
    torch.testing.assert_close(doubled, torch.cat((z, 2 * z), dim=-1))


@pytest.mark.parametrize(("size", "grid"), [((48, 48), (3, 3)), ((32, 64), (2, 4))])
def test_a_grid_is_that_of_the_backbone_before_any_image(size, grid, make):
    model = make("gap", img_size=size)
    tokens = TokenGrid(shape_of(model))
    assert tokens.size == grid
    tokens.follow(model)
    model(torch.zeros(1, 3, *size))
    assert tokens.size == grid


def test_images_of_another_size_change_the_grid(make):
    model = make("plain", dynamic_img_size=True)
    tokens = TokenGrid(shape_of(model))
    tokens.follow(model)
    model(torch.zeros(1, 3, 48, 80))
    assert tokens.size == (3, 5)
