"""Full fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from petlas.petl.backbones import family_of
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.placed import NoOptions, Placed
from petlas.petl.parts.subset_method import SubsetMethod
from petlas.petl.parts.tuned_copies import TunedCopies
from petlas.petl.shape import BackboneShape


class Full(SubsetMethod):
    """Every parameter of the backbone is trained (85,798,656 for ViT-B/16)."""

    name = "full"
    summary = "every parameter is trained"
    paper = "full fine-tuning"
    sites = ("backbone",)
    in_blocks = False
    combines = False

    def count(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> int:
        """The whole backbone."""
        return shape.params

    def paths(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> list[str]:
        """Known only when attached: tokens and position embeddings are no layers."""
        return []

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[NoOptions]]) -> Iterator[Handle]:
        """Put trained copies in place of everything that is frozen: the head is trained already."""
        assert isinstance(module, TunedCopies)
        shape = family_of(model).shape(model)
        frozen = [path for path, p in model.named_parameters() if not p.requires_grad]
        module.names |= {path: shape.key(path) for path in frozen}
        module.place(model, frozen)
        yield module
