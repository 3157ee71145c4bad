"""Prompts of pixels around the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.parts.elastic import Elastic
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.method import Method
from petlas.petl.parts.placed import NoOptions, Placed
from petlas.petl.shape import BackboneShape


class Border(Elastic):
    """Learned pixels around normalised images (B, 3, H, W): (B, 3, H + 2 p, W + 2 p), uniform in +-1 at the start.

    The axes of size p count from the image outwards, so that a narrower border is the inner part of a wider one.
    """

    axes = {"rows": 2, "columns": 2, "corners": (2, 3)}
    undecayed = ("rows", "columns", "corners")

    def __init__(self, pixels: int, size: tuple[int, int]) -> None:
        super().__init__(pixels)
        height, width = size
        self.rows = nn.Parameter(torch.empty(2, 3, pixels, width).uniform_(-1, 1))
        self.columns = nn.Parameter(torch.empty(2, 3, pixels, height).uniform_(-1, 1))
        self.corners = nn.Parameter(torch.empty(4, 3, pixels, pixels).uniform_(-1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """The images with the border; along images of another size it is stretched."""
        height, width = images.shape[-2:]
        top, bottom = _stretched(self.part("rows"), width)
        left, right = _stretched(self.part("columns"), height).transpose(-1, -2)
        first, second, third, fourth = self.part("corners")
        above = torch.cat((first.flip(-1, -2), top.flip(-2), second.flip(-2)), dim=-1)
        below = torch.cat((third.flip(-1), bottom, fourth), dim=-1)
        left, right, above, below = (
            part.to(images.dtype).expand(len(images), -1, -1, -1) for part in (left.flip(-1), right, above, below)
        )
        return torch.cat((above, torch.cat((left, images, right), dim=-1), below), dim=-2)


def _stretched(edges: Tensor, length: int) -> Tensor:
    """(2, 3, p, L) to (2, 3, p, length)."""
    if edges.shape[-1] == length:
        return edges
    size = (edges.shape[-2], length)
    return F.interpolate(edges, size, mode="bilinear", align_corners=False)


class PadPrompt(Method[NoOptions]):
    """Learned pixels around the image, for networks that take images of any size: p on each side.

    `size` is p. Count: 6 p (H + W + 2 p) for images of H x W (28,080 for p = 10 at 224). By definition not zero-start;
    not mergeable. The whole image stays, so that maps grow: at 224 with p = 30 by a quarter on each side. The code
    draws pixels of 0 to 1 and normalises them; here they are drawn, and learned, as normalised ones. Source: Jia et
    al., Visual Prompt Tuning, 2022, which has it as "Pad" for ConvNets.
    """

    name = "pad_prompt"
    summary = "learned pixels around the image"
    paper = "VPT-Pad (Jia et al., 2022)"
    sites = ("pixels",)
    needs = ("images",)
    size_means = "pixels"
    default_size = 10
    zero_start = False
    mergeable = False
    in_blocks = False
    in_backbone = True
    option_type = NoOptions

    def count(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> int:
        """Two edges of each kind, and four corners."""
        return sum(6 * p.size * (sum(shape.image) + 2 * p.size) for p in placements)

    def build(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> Border:
        """The border."""
        (placement,) = placements
        return Border(placement.size, shape.image)

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[NoOptions]]) -> Iterator[Handle]:
        """In front of all layers."""
        assert isinstance(module, Border)
        yield family_of(model).site(model, "images").change(module)
