"""The pieces that the low-rank reparameterisations share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.design import DesignError, Placement
from petlas.petl.methods.base import BlockMethod, Elastic
from petlas.petl.methods.narrow import reduce, widen
from petlas.petl.shape import LINEARS, BackboneShape


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

    def delta(self) -> Tensor:
        """s B A, the update of the weight's rows (outputs, inputs)."""
        return self.scaled_up() @ self.part("down")


class TargetsMethod(BlockMethod):
    """A method with a module for each of some linear layers of a block, q, k and v apart.

    The option `targets` names those layers, in any order; the modules stand in the order of `LINEARS`.
    """

    sites = ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2")

    def _targets(self, placement: Placement) -> list[str]:
        return [target.strip() for target in str(self.option(placement, "targets")).split(",")]

    def sites_of(self, placement: Placement) -> tuple[str, ...]:
        """The layers that are targets."""
        return tuple(site for site in self.sites if site.rpartition(".")[2] in self._targets(placement))

    def sides(self, shape: BackboneShape, placement: Placement) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each target."""
        targets = self._targets(placement)
        sides: dict[str, tuple[int, int]] = {}
        for path, names in LINEARS.items():
            layer = shape.layer(f"{placement.path}.{path}")
            sides |= {name: (layer.inputs, layer.outputs // len(names)) for name in names if name in targets}
        return sides

    def check(self, shape: BackboneShape, placement: Placement) -> None:
        """Beyond the common rules, refuse targets that are unknown or named twice."""
        super().check(shape, placement)
        known, targets = [name for names in LINEARS.values() for name in names], self._targets(placement)
        if not set(targets) <= set(known) or len(set(targets)) < len(targets):
            raise DesignError(
                f"option targets of {self.name} must name some of {', '.join(known)}, each once and with commas "
                f"between, got targets={self.option(placement, 'targets')!r}"
            )


class LowRankMethod(TargetsMethod):
    """A method that updates linear layers by a `LowRank` each."""

    part: ClassVar[type[LowRank]]
    size_means = "rank"
    default_size = 8
    zero_start = True
    mergeable = True
    options = {"alpha": None, "dropout": 0.0, "targets": "q,v"}

    def count_block(self, shape: BackboneShape, placement: Placement) -> int:
        """A and B of each target."""
        assert placement.size is not None
        return sum(placement.size * (inputs + outputs) for inputs, outputs in self.sides(shape, placement).values())

    def build_block(self, shape: BackboneShape, placement: Placement) -> nn.Module:
        """One `LowRank` for each target, under its name."""
        assert placement.size is not None
        alpha, dropout = self.option(placement, "alpha"), self.option(placement, "dropout")
        scaling = (placement.size, None if alpha is None else float(alpha), float(dropout or 0.0))
        sides = self.sides(shape, placement).items()
        return nn.ModuleDict({name: self.part(inputs, outputs, *scaling) for name, (inputs, outputs) in sides})


def by_layer(module: nn.Module) -> Iterator[tuple[str, tuple[tuple[int, LowRank], ...]]]:
    """The path of each layer that a block's module updates, and its parts, each with the first row that is its own."""
    for path, names in LINEARS.items():
        parts = []
        for share, name in enumerate(names):
            part = module._modules.get(name)
            if isinstance(part, LowRank):
                parts.append((share * len(part.up), part))
        if parts:
            yield path, tuple(parts)


def hidden_units(parts: Sequence[LowRank], x: Tensor) -> Tensor:
    """A dropout(x) of all the updates of one layer side by side, (B, N, sum of r), from its input (B, N, inputs)."""
    if any(part.training and part.dropout for part in parts):  # drawn for each by itself
        return torch.cat([part.hidden(x) for part in parts], dim=-1)
    return reduce(x, torch.cat([part.part("down") for part in parts]))


def spread(parts: Iterable[tuple[int, Tensor]], rows: int) -> Tensor:
    """Matrices (n, r), each with the row where it begins, side by side in one of so many rows, else 0."""
    return torch.cat([F.pad(part, (0, 0, start, rows - start - len(part))) for start, part in parts], dim=1)


@torch.no_grad()
def add_to_bias(layer: nn.Module, update: Tensor) -> None:
    """Add to the bias (O,) of a linear layer; a layer without one gets one."""
    if layer.bias is None:
        layer.bias = nn.Parameter(update.detach().clone(), requires_grad=False)
    else:
        layer.get_parameter("bias").add_(update)
