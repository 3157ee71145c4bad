"""Where the patches stand in a sequence of tokens, for methods that work on their grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.backbones.base import Family
from petlas.petl.backbones.site import Layout
from petlas.petl.parts.block_method import BlockMethod
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.placed import Placed
from petlas.petl.shape import BackboneShape, BlockShape

OptionsT = TypeVar("OptionsT")


class TokenGrid(nn.Module):
    """The patches of a sequence (B, N, C): rows * columns tokens behind the class and register tokens.

    What stands behind them, such as prompts, is none. The grid is the backbone's, or, where images may differ in
    size, that of the images that went in last.
    """

    unread: ClassVar[tuple[str, ...]] = ("block",)

    def __init__(self, shape: BackboneShape | BlockShape) -> None:
        super().__init__()
        self.first = shape.prefix_tokens
        self.size = shape.grid
        self.block = shape.index if isinstance(shape, BlockShape) else 0

    def forward(self, z: Tensor, convolve: Callable[[Tensor], Tensor]) -> Tensor:
        """Convolve the patches as one map (B, C, rows, columns), and every other token alone, as a map of 1 x 1.

        Args:
            z: The tokens (B, N, C).
            convolve: Maps to maps of the same rows and columns.
        """
        rows, columns = self.size
        patches = rows * columns
        before, grid, behind = z.tensor_split((self.first, self.first + patches), dim=1)
        grid = convolve(grid.transpose(1, 2).unflatten(2, (rows, columns))).flatten(2).transpose(1, 2)
        if z.shape[1] == patches:
            return grid
        others = torch.cat((before, behind), dim=1)
        others = convolve(others.flatten(0, 1)[:, :, None, None]).flatten(1).unflatten(0, others.shape[:2])
        return torch.cat((others[:, : self.first], grid, others[:, self.first :]), dim=1)

    def follow(self, model: nn.Module) -> Handle:
        """Take the grid from the images of each forward pass of a model, or from the maps of the block."""
        family = family_of(model)
        name = family.grid_site
        maps = family.site(model, name, self.block) if name in family.sites else None
        if maps is not None and maps.layout != "NLC":
            return replace(maps, raw=True).read(partial(_look_at, self, maps.layout))
        return family.site(model, "images").read(partial(_measure, self, family, model))


def _look_at(grid: TokenGrid, layout: Layout, maps: Tensor) -> None:
    rows, columns = maps.shape[2:] if layout == "NCHW" else maps.shape[1:3]
    grid.size = (rows, columns)


def _measure(grid: TokenGrid, family: Family, model: nn.Module, images: Tensor) -> None:
    grid.size = family.grid(model, (images.shape[-2], images.shape[-1]))


class GridMethod(BlockMethod[OptionsT]):
    """A method at blocks whose modules contain a `TokenGrid`."""

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[OptionsT]]) -> Iterator[Handle]:
        """Connect each module to its block, and its grid to the images."""
        for part in module.modules():
            if isinstance(part, TokenGrid):
                yield part.follow(model)
        yield from super().attach(model, module, placements)
