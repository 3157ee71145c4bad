"""Where the patches stand in a sequence of tokens, for methods that work on their grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from petlas.petl.design import Placement
from petlas.petl.methods.base import BlockMethod, Handle
from petlas.petl.shape import BackboneShape


class TokenGrid(nn.Module):
    """The patches of a sequence (B, N, C): rows * columns tokens behind the class and register tokens.

    What stands behind them, such as prompts, is none. The grid is the backbone's, or, where images may differ in
    size, that of the images that went in last.
    """

    def __init__(self, shape: BackboneShape) -> None:
        super().__init__()
        self.first = shape.prefix_tokens
        self.size = shape.grid

    def forward(self, z: Tensor, convolve: Callable[[Tensor], Tensor]) -> Tensor:
        """Convolve the patches as one map (B, C, rows, columns), and every other token alone, as a map of 1 x 1."""
        rows, columns = self.size
        patches = rows * columns
        before, grid, behind = z.tensor_split((self.first, self.first + patches), dim=1)
        grid = convolve(grid.transpose(1, 2).unflatten(2, (rows, columns))).flatten(2).transpose(1, 2)
        if z.shape[1] == patches:
            return grid
        others = torch.cat((before, behind), dim=1)
        others = convolve(others.flatten(0, 1)[:, :, None, None]).flatten(1).unflatten(0, others.shape[:2])
        return torch.cat((others[:, : self.first], grid, others[:, self.first :]), dim=1)

    def measure(self, patch_embed: nn.Module, args: tuple[Tensor]) -> None:
        """Pre-hook of the patch embedding: take the grid from the images (B, 3, H, W)."""
        assert isinstance(patch_embed, PatchEmbed)
        height, width = args[0].shape[-2:]
        self.size = patch_embed.dynamic_feat_size((height, width))


class GridMethod(BlockMethod):
    """A method at blocks whose modules contain a `TokenGrid`."""

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placement]) -> Iterator[Handle]:
        """Connect each module to its block, and its grid to the patch embedding."""
        for part in module.modules():
            if isinstance(part, TokenGrid):
                yield model.get_submodule("patch_embed").register_forward_pre_hook(part.measure)
        yield from super().attach(model, module, placements)
