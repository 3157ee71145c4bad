"""The pieces that the low-rank reparameterisations share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.design import DesignError, Placement
from petlas.petl.parts.block_method import BlockMethod
from petlas.petl.parts.elastic import Elastic
from petlas.petl.parts.placed import Placed, with_option
from petlas.petl.parts.products import reduce, widen
from petlas.petl.shape import GATE, LINEAR_SITES, BackboneShape, BlockShape, Layer


class LowRank(Elastic):
    """An update s B A of a share of a weight's rows: A (r, inputs) Kaiming, B (outputs, r) zero, s = alpha / r."""

    axes = {"down": 0, "up": 1}
    summed = "up"

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float | None, dropout: float) -> None:
        super().__init__(rank)
        self.alpha = alpha
        self.dropout = dropout
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    @property
    def scale(self) -> float:
        """alpha / r with the active rank; 1 where no alpha is set."""
        return 1.0 if self.alpha is None else self.alpha / self.active

    def forward(self, x: Tensor) -> Tensor:
        """s B A dropout(x), (B, N, outputs), from (B, N, inputs)."""
        return widen(self.hidden(x), self.scaled_up())

    def hidden(self, x: Tensor) -> Tensor:
        """A dropout(x), (B, N, r), from the layer's input (B, N, inputs)."""
        return reduce(F.dropout(x, self.dropout, self.training), self.part("down"))

    def scaled_up(self) -> Tensor:
        """s B, (outputs, r)."""
        return self.scale * self.part("up")

    def gain(self, weight: Tensor) -> Tensor | None:
        """What the updated rows (outputs, inputs) are multiplied by, (outputs,); None for 1."""
        return None

    def delta(self) -> Tensor:
        """s B A, the update of the weight's rows (outputs, inputs)."""
        return self.scaled_up() @ self.part("down")


@dataclass(frozen=True)
class Targets:
    """The options of a method that updates some linear layers.

    Args:
        targets: The layers' names, with commas between.
    """

    targets: str

    @property
    def names(self) -> list[str]:
        """The layers' names."""
        return [target.strip() for target in self.targets.split(",")]


TargetsT = TypeVar("TargetsT", bound=Targets)


SCALE = "scale"
"""What is set of the method in place of alpha, which depends on the rank."""

ALL = "all"
"""In place of the names of targets: every linear layer of the block that has a name."""


class TargetsMethod(BlockMethod[TargetsT]):
    """A method with a module for each of some linear layers of a block, q, k and v apart.

    The option `targets` names those layers, in any order, or is `all`; the modules stand in the order of the forward
    pass.
    """

    sites = tuple(site for name, site in LINEAR_SITES.items() if name != GATE)

    def sites_of(self, placement: Placement) -> tuple[str, ...]:
        """The layers that are targets."""
        names = self.placed(placement).options.names
        return tuple(site for name, site in LINEAR_SITES.items() if name in names)

    def baseline(self, shape: BackboneShape, size: int | None) -> tuple[Placement, ...]:
        """The usual targets where the blocks have all of them; else, in each block, all linear layers that it has."""
        known = [[name for layer in block.linears for name in layer.names] for block in shape.blocks]
        usual = super().baseline(shape, size)
        wanted = self.placed(usual[0]).options.names if usual else []
        if set(wanted) <= {name for names in known for name in names} or not any(known):
            return usual
        own = [(placement, known[placement.block or 0]) for placement in usual]
        return tuple(replace(p, options=(("targets", ",".join(names)),)) for p, names in own if names)

    def sides(self, block: BlockShape, placement: Placed[TargetsT]) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each target.

        Args:
            block: The shape of the placement's block.
            placement: The placement.
        """
        targets, linears = placement.options.names, block.linears
        known = {name: (layer.inputs, layer.share) for layer in linears for name in layer.names}
        return {name: sides for name, sides in known.items() if targets == [ALL] or name in targets}

    def check_fit(self, shape: BackboneShape, placement: Placed[TargetsT]) -> None:
        """Beyond the common rules, refuse targets that are unknown or named twice."""
        targets = placement.options.names
        known = [name for layer in shape.blocks[placement.block].linears for name in layer.names]
        if not known:
            raise DesignError(
                f"{self.name} changes linear layers and convolutions of 1 x 1, and block {placement.block} of "
                f"{shape.name} has none; choose another method"
            )
        if targets == [ALL]:
            return
        if not set(targets) <= set(known) or len(set(targets)) < len(targets):
            raise DesignError(
                f"option targets of {self.name} must name some of {', '.join(known)}, each once and with commas "
                f"between, got targets={placement.options.targets!r}"
            )


@dataclass(frozen=True)
class LowRankOptions(Targets):
    """What a low-rank placement may set.

    Args:
        targets: The layers' names, with commas between.
        alpha: The scale is alpha / r; None for a scale of 1.
        dropout: Acts on the layer's input.
    """

    targets: str = "q,v"
    alpha: float | None = None
    dropout: float = 0.0


@dataclass(frozen=True)
class Update:
    """What a method does to some rows of a frozen weight W, as plain values: g (W + B A), with g = 1 where it is None.

    Args:
        layer: The path of the linear layer.
        start: The first of the rows.
        down: A (r, inputs).
        up: B (rows, r), with the scale.
        gain: g (rows,), for the product with B A, too.
    """

    layer: str
    start: int
    down: Tensor
    up: Tensor
    gain: Tensor | None = None


class LowRankMethod(TargetsMethod[LowRankOptions]):
    """A method that updates linear layers by a `LowRank` each."""

    part: ClassVar[type[LowRank]]
    size_means = "rank"
    default_size = 8
    zero_start = True
    mergeable = True
    option_type = LowRankOptions

    def count_block(self, block: BlockShape, placement: Placed[LowRankOptions]) -> int:
        """A and B of each target."""
        return sum(placement.size * (inputs + outputs) for inputs, outputs in self.sides(block, placement).values())

    def build_block(self, block: BlockShape, placement: Placed[LowRankOptions]) -> nn.Module:
        """One `LowRank` for each target, under its name."""
        scaling = (placement.size, placement.options.alpha, placement.options.dropout)
        sides = self.sides(block, placement).items()
        return nn.ModuleDict({name: self.part(inputs, outputs, *scaling) for name, (inputs, outputs) in sides})

    def usual_setting(self, name: str) -> float:
        """As for all methods; and the scale s, which is 1 without an alpha.

        Args:
            name: Of an option that is a number, or `scale`.
        """
        return 1.0 if name == SCALE else super().usual_setting(name)

    def at_setting(self, placement: Placement, name: str, value: float) -> Placement:
        """As for all methods; a scale s is an alpha of s r.

        Args:
            placement: One of the method's placements.
            name: Of an option that is a number, or `scale`.
            value: What it is set to.
        """
        if name != SCALE:
            return super().at_setting(placement, name, value)
        return with_option(placement, "alpha", value * (placement.size or 0))

    @torch.no_grad()
    def updates(
        self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[LowRankOptions]]
    ) -> Iterator[Update]:
        """What it does to the backbone's weights.

        Args:
            model: The backbone, unmerged.
            module: What `build` made.
            placements: The method's placements.
        """
        for placement in placements:
            block = family_of(model).shape(model).blocks[placement.block]
            for layer, parts in by_layer(block, module.get_submodule(placement.path)):
                weight = model.get_parameter(f"{layer.path}.weight").flatten(1)
                for start, part in parts:
                    gain = part.gain(weight[start : start + len(part.up)])
                    yield Update(layer.path, start, part.part("down"), part.scaled_up(), gain)


def by_layer(block: BlockShape, module: nn.Module) -> Iterator[tuple[Layer, tuple[tuple[int, LowRank], ...]]]:
    """Each layer that a block's module updates, and its parts, each with the first row that is its own.

    Args:
        block: The block's shape.
        module: The parts by the names of their targets.
    """
    children = dict(module.named_children())
    for layer in block.linears:
        parts = []
        for share, name in enumerate(layer.names):
            part = children.get(name)
            if isinstance(part, LowRank):
                parts.append((share * len(part.up), part))
        if parts:
            yield layer, tuple(parts)


def hidden_units(parts: Sequence[LowRank], x: Tensor) -> Tensor:
    """A dropout(x) of all the updates of one layer side by side, (B, N, sum of r), from its input (B, N, inputs).

    Args:
        parts: The updates.
        x: The layer's input.
    """
    if any(part.training and part.dropout for part in parts):  # drawn for each by itself
        return torch.cat([part.hidden(x) for part in parts], dim=-1)
    return reduce(x, torch.cat([part.part("down") for part in parts]))


def spread(parts: Iterable[tuple[int, Tensor]], rows: int) -> Tensor:
    """Matrices (n, r), each with the row where it begins, side by side in one of so many rows, else 0.

    Args:
        parts: The first row of each matrix, and the matrix.
        rows: Of the result.
    """
    return torch.cat([F.pad(part, (0, 0, start, rows - start - len(part))) for start, part in parts], dim=1)
