"""Full fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from petlas.petl.design import Placement
from petlas.petl.methods.base import Adopted, Handle, SubsetMethod
from petlas.petl.shape import BackboneShape


class Full(SubsetMethod):
    """Every parameter of the backbone is trained (85,798,656 for ViT-B/16)."""

    name = "full"
    summary = "every parameter is trained"
    paper = "full fine-tuning"
    sites = ("backbone",)
    in_blocks = False
    combines = False

    def count(self, shape: BackboneShape, placements: Sequence[Placement]) -> int:
        """The whole backbone."""
        return shape.params

    def paths(self, shape: BackboneShape, placements: Sequence[Placement]) -> list[str]:
        """Known only when attached: tokens and position embeddings are no layers."""
        return []

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placement]) -> Iterator[Handle]:
        """Put trained copies in place of everything that is frozen: the head is trained already."""
        assert isinstance(module, Adopted)
        module.adopt(model, [path for path, p in model.named_parameters() if not p.requires_grad])
        yield module
