"""A method that does the same in each of its blocks, whatever it does in the others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

from torch import nn

from petlas.petl.backbones import family_of
from petlas.petl.backbones.base import BlockSites
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.method import Method
from petlas.petl.parts.placed import OptionsT, Placed
from petlas.petl.parts.tree import Tree
from petlas.petl.shape import BackboneShape, BlockShape


class BlockMethod(Method[OptionsT]):
    """A method whose placements are independent of each other, each with one module at one block."""

    @abstractmethod
    def count_block(self, block: BlockShape, placement: Placed[OptionsT]) -> int:
        """Trainable parameters of one placement.

        Args:
            block: The shape of its block.
            placement: The placement.
        """

    @abstractmethod
    def build_block(self, block: BlockShape, placement: Placed[OptionsT]) -> nn.Module:
        """The module of one placement.

        Args:
            block: The shape of its block.
            placement: The placement.
        """

    @abstractmethod
    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """Connect the module of one placement to its block.

        Args:
            block: Its block.
            module: What `build_block` made.
        """

    def merge_block(self, block: BlockSites, module: nn.Module) -> None:
        """Fold the module of one placement into its block's weights.

        Args:
            block: Its block.
            module: What `build_block` made.
        """
        raise NotImplementedError

    def count(self, shape: BackboneShape, placements: Sequence[Placed[OptionsT]]) -> int:
        """The sum over the placements."""
        return sum(self.count_block(shape.blocks[p.block], p) for p in placements)

    def build(self, shape: BackboneShape, placements: Sequence[Placed[OptionsT]]) -> Tree:
        """A tree with one module under `blocks.N` for each placement."""
        tree = Tree()
        for placement in placements:
            tree.add(placement.path, self.build_block(shape.blocks[placement.block], placement))
        return tree

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[OptionsT]]) -> Iterator[Handle]:
        """Connect each module to its block."""
        sites = family_of(model).block_sites(model)
        for placement in placements:
            yield from self.attach_block(sites[placement.block], module.get_submodule(placement.path))

    def merge(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[OptionsT]]) -> None:
        """Fold each module into its block."""
        if not self.mergeable:
            super().merge(model, module, placements)
        sites = family_of(model).block_sites(model)
        for placement in placements:
            self.merge_block(sites[placement.block], module.get_submodule(placement.path))
