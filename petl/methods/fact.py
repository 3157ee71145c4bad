"""FacT, as a tensor train and as a Tucker decomposition."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.design import DesignError
from petlas.petl.parts.elastic import Elastic
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.method import Method
from petlas.petl.parts.placed import Placed
from petlas.petl.parts.products import add_product
from petlas.petl.parts.tree import Tree
from petlas.petl.shape import BackboneShape, Layer


class Factors(Elastic):
    """The updates of all P square pieces (D, D) of a backbone's weights: s V S_p U, with U (r, D) and V (D, r).

    Args:
        width: Channels of a token (D).
        columns: For each piece, how many pieces its layer has side by side: its inputs over D.
        rank: r.
        scale: s.
        dropout: Acts on S_p U x.
    """

    def __init__(self, width: int, columns: Sequence[int], rank: int, scale: float, dropout: float) -> None:
        super().__init__(rank)
        self.width = width
        self.scale = scale
        self.dropout = dropout
        self.down = nn.Parameter(torch.empty(rank, width))
        self.up = nn.Parameter(torch.zeros(width, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    @abstractmethod
    def middle(self, pieces: slice) -> Tensor:
        """S_p of some pieces, (P, r, r)."""

    def update(self, pieces: slice, x: Tensor, output: Tensor) -> Tensor:
        """A layer's output (B, N, m D) with the update from its input (B, N, n D).

        Args:
            pieces: Those of the layer's weight.
            x: Its input.
            output: Its output.
        """
        columns = x.shape[-1] // self.width
        hidden = F.linear(x.unflatten(-1, (columns, self.width)), self.part("down")).flatten(-2)
        hidden = F.dropout(F.linear(hidden, _joined(self.middle(pieces), columns)), self.dropout, self.training)
        return add_product(output, hidden.unflatten(-1, (-1, self.active)), self.scale * self.part("up"))

    def delta(self, pieces: slice, columns: int) -> Tensor:
        """The update of a layer's weight, (m D, n D).

        Args:
            pieces: Those of the weight.
            columns: Pieces side by side (n).
        """
        blocks: Tensor = self.scale * self.part("up") @ self.middle(pieces) @ self.part("down")
        return _joined(blocks, columns)


def _joined(blocks: Tensor, columns: int) -> Tensor:
    """Blocks (m n, a, b), row by row, as one matrix (m a, n b)."""
    joined: Tensor = blocks.unflatten(0, (-1, columns)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    return joined


class TensorTrain(Factors):
    """Each piece with an S_p of its own: `core` (P, r, r), each drawn as its layer's weight (m r, n r) would be."""

    axes = {"down": 0, "up": 1, "core": (1, 2)}
    summed = "up"

    def __init__(self, width: int, columns: Sequence[int], rank: int, scale: float, dropout: float) -> None:
        super().__init__(width, columns, rank, scale, dropout)
        bounds = 1 / (torch.tensor(columns) * rank).sqrt()
        self.core = nn.Parameter((torch.rand(len(columns), rank, rank) * 2 - 1) * bounds[:, None, None])

    def middle(self, pieces: slice) -> Tensor:
        """Slices of the core."""
        return self.part("core")[pieces]


class Tucker(Factors):
    """S_p as a mixture of shared matrices: sum_k mix_pk core_k, with `core` (r, r, r) and `mix` (P, r), Xavier."""

    axes = {"down": 0, "up": 1, "core": (0, 1, 2), "mix": 1}
    summed = "up"

    def __init__(self, width: int, columns: Sequence[int], rank: int, scale: float, dropout: float) -> None:
        super().__init__(width, columns, rank, scale, dropout)
        self.core = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, rank, rank)))
        self.mix = nn.Parameter(nn.init.xavier_uniform_(torch.empty(len(columns), rank)))

    def middle(self, pieces: slice) -> Tensor:
        """The shared matrices, mixed."""
        return torch.einsum("kab,pk->pab", self.part("core"), self.part("mix")[pieces])


@dataclass(frozen=True)
class Options:
    """What a placement may set."""

    scale: float = 1.0
    dropout: float = 0.1


class FacT(Method[Options]):
    """What both decompositions share: the pieces, the hooks and the merge."""

    factors: ClassVar[type[Factors]]
    sites = ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2")
    any_site = True
    size_means = "rank"
    zero_start = True
    mergeable = True
    in_blocks = False
    in_backbone = True
    option_type = Options

    @abstractmethod
    def count_middle(self, pieces: int, rank: int) -> int:
        """Parameters of all S_p together.

        Args:
            pieces: How many there are.
            rank: r.
        """

    def _stages(self, shape: BackboneShape) -> Iterator[tuple[str, int, list[tuple[Layer, slice]]]]:
        """For each stage where its factors stand, D, and its layers with their pieces.

        These are, row by row, the (D, D) squares in a layer's weight. A single stage has the place of the method.
        """
        for number, stage in enumerate(shape.stages):
            layers, start = [], 0
            for layer in (each for block in shape.blocks if block.stage == number for each in block.linears):
                stop = start + layer.outputs // stage.width * (layer.inputs // stage.width)
                layers.append((layer, slice(start, stop)))
                start = stop
            yield f"stages.{number}" if len(shape.stages) > 1 else "", stage.width, layers

    def count(self, shape: BackboneShape, placements: Sequence[Placed[Options]]) -> int:
        """U and V once, and what stands between them."""
        (placement,) = placements
        return sum(
            2 * width * placement.size + self.count_middle(layers[-1][1].stop, placement.size)
            for _, width, layers in self._stages(shape)
        )

    def build(self, shape: BackboneShape, placements: Sequence[Placed[Options]]) -> nn.Module:
        """One module for each stage."""
        (placement,) = placements
        options, tree = placement.options, Tree()
        for path, width, layers in self._stages(shape):
            columns: list[int] = []
            for layer, pieces in layers:
                columns += [layer.inputs // width] * (pieces.stop - pieces.start)
            factors = self.factors(width, columns, placement.size, options.scale, options.dropout)
            if not path:
                return factors
            tree.add(path, factors)
        return tree

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[Options]]) -> Iterator[Handle]:
        """On the output of each linear layer of each block."""
        family = family_of(model)
        for layer, pieces, factors in self._parts(family.shape(model), module):
            yield family.layer_site(model, layer).around(partial(factors.update, pieces))

    @torch.no_grad()
    def merge(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[Options]]) -> None:
        """Into each weight."""
        for layer, pieces, factors in self._parts(family_of(model).shape(model), module):
            weight = model.get_submodule(layer.path).get_parameter("weight").flatten(1)
            weight.add_(factors.delta(pieces, layer.inputs // factors.width))

    def _parts(self, shape: BackboneShape, module: nn.Module) -> Iterator[tuple[Layer, slice, Factors]]:
        """Each layer with its pieces and what updates them."""
        for path, _, layers in self._stages(shape):
            factors = module.get_submodule(path)
            assert isinstance(factors, Factors)
            yield from ((layer, pieces, factors) for layer, pieces in layers)

    def check_fit(self, shape: BackboneShape, placement: Placed[Options]) -> None:
        """Beyond the common rules, refuse a backbone whose layers do not fall into squares."""
        for layer, width in ((layer, width) for _, width, layers in self._stages(shape) for layer, _ in layers):
            if layer.inputs % width or layer.outputs % width:
                raise DesignError(
                    f"{self.name} cuts every weight into squares of {width} x {width} for {shape.name}, "
                    f"and {layer.path} has {layer.outputs} x {layer.inputs}; take a backbone whose MLP is a whole "
                    "number of times as wide as its tokens"
                )


class FacTTT(FacT):
    """The weight updates of the whole backbone as one tensor train: dW_p = s V S_p U for P pieces of (D, D).

    q, k, v and proj are one piece each, fc1 is four pieces of D outputs and fc2 four of D inputs: P = 12 L, in this
    order in each block. U (r, D) and V (D, r) are shared by all, S_p (r, r) is the piece's own. `size` is the rank r.
    Count: 2 D r + 12 L r^2 (61,440 for ViT-B/16 at r = 16); 4 in fc1 and fc2 is the ratio of the MLP, a whole number.
    U and S_p start Kaiming and V zero: zero-start. Mergeable into each weight. Dropout 0.1 acts on S_p U x; the paper
    picks the scale s of each task among 0.01, 0.1, 1, 10 and 100. Source: Jie & Deng, FacT, 2023.
    """

    name = "fact_tt"
    summary = "updates of all linear weights, factored together as a tensor train"
    paper = "FacT (Jie & Deng, 2023)"
    default_size = 16
    factors = TensorTrain

    def count_middle(self, pieces: int, rank: int) -> int:
        """An (r, r) for each piece."""
        return pieces * rank * rank


class FacTTK(FacT):
    """The weight updates of the whole backbone in Tucker form: dW_p = s V S_p U with S_p = sum_k mix_pk core_k.

    Pieces, U (r, D), V (D, r), options, zero-start and merge are those of `fact_tt`. `core` (r, r, r) is shared by all
    pieces and `mix` (12 L, r) tells them apart. `size` is the rank r. Count: 2 D r + 12 L r + r^3 (86,528 for
    ViT-B/16 at r = 32). `core` and `mix` start Xavier. The formula is the paper's, with the same orientation for
    every piece; the authors' code reshapes the slices of fc1 and fc2 so that parts of different pieces mix, and takes
    those of fc2 transposed: as many parameters, other combinations of them. Source: Jie & Deng, FacT, 2023.
    """

    name = "fact_tk"
    summary = "updates of all linear weights, factored together in Tucker form"
    paper = "FacT (Jie & Deng, 2023)"
    default_size = 32
    factors = Tucker

    def count_middle(self, pieces: int, rank: int) -> int:
        """The core and the mixtures."""
        return rank**3 + pieces * rank
