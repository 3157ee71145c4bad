"""KAdaptation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.backbones.base import BlockSites
from petlas.petl.design import DesignError
from petlas.petl.parts.elastic import Elastic
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.low_rank import spread
from petlas.petl.parts.method import Method
from petlas.petl.parts.placed import Placed
from petlas.petl.parts.products import add_product, reduce
from petlas.petl.parts.tree import Tree
from petlas.petl.shape import BackboneShape, Layer

UPDATED = ("q", "v")
"""The shares that are updated."""


class Slow(Elastic):
    """The left factors a b^T of n Kronecker products, shared by all blocks: a, b (n, l), uniform within 0.01."""

    axes = {"inputs": 0, "outputs": 0}

    def __init__(self, terms: int, length: int) -> None:
        super().__init__(terms)
        self.inputs = nn.Parameter(torch.empty(terms, length).uniform_(-0.01, 0.01))
        self.outputs = nn.Parameter(torch.empty(terms, length).uniform_(-0.01, 0.01))


class Fast(Elastic):
    """The right factors u v^T of n Kronecker products, a block's own: u (n, D / l) Glorot, v (n, O / l) zero."""

    axes = {"inputs": 0, "outputs": 0}
    summed = "outputs"

    def __init__(self, terms: int, inputs: int, outputs: int) -> None:
        super().__init__(terms)
        bound = math.sqrt(2) * math.sqrt(6 / (inputs + 1))
        self.inputs = nn.Parameter(torch.empty(terms, inputs).uniform_(-bound, bound))
        self.outputs = nn.Parameter(torch.zeros(terms, outputs))


class Update(nn.Module):
    """A block's own share of its update of q and v: the fast factors of each, and one bias (O,) for both."""

    def __init__(self, terms: int, inputs: int, outputs: int, length: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.q = Fast(terms, inputs // length, outputs // length)
        self.v = Fast(terms, inputs // length, outputs // length)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = scale
        self.dropout = dropout

    def factored(self, slow: nn.Module, names: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """For a layer with such shares: P (n', D) and s Q (O', n'), whose product is the update of the weight, and c.

        The Kronecker product of two matrices of rank one has rank one: (a b^T) o (u v^T) = (a o u) (b o v)^T.

        Args:
            slow: The slow factors.
            names: Of the layer's shares; those named q and v are updated.
        """
        downs, ups, biases = [], [], []
        for share, name in enumerate(names):
            if name not in UPDATED:
                biases.append(torch.zeros_like(self.bias))
                continue
            shared, fast = slow.get_submodule(name), self.get_submodule(name)
            assert isinstance(shared, Slow) and isinstance(fast, Fast)
            downs.append(_kronecker(shared.part("inputs"), fast.part("inputs")))
            up = _kronecker(shared.part("outputs"), fast.part("outputs")).t()
            ups.append((share * len(self.bias), self.scale * up))
            biases.append(self.bias)
        return torch.cat(downs), spread(ups, len(names) * len(self.bias)), torch.cat(biases)


@dataclass(frozen=True)
class Options:
    """What a placement may set."""

    slow: int = 32
    scale: float = 160.0
    dropout: float = 0.5


class KAdaptation(Method[Options]):
    """Sums of Kronecker products on q and v: W' = W + s dW and b' = b + c with dW^T = sum_i (a_i b_i^T) o (u_i v_i^T).

    o is the Kronecker product. a_i and b_i (l,) are slow factors, one set for q and one for v, shared by all blocks;
    u_i and v_i (D / l,) are fast factors, a block's own; the bias c (D,) is a block's own and serves q and v. `size`
    is the number n of terms, and `slow` is l; the paper has n = l = 32. Count: L (4 n D / l + D) + 4 n l (50,176 for
    ViT-B/16 at n = l = 32). Zero-start (v = 0, c = 0), mergeable as written; a layer without a bias gets one. Dropout
    0.5 acts on the entries of dW; the scale s is 160.

    The authors' code starts both fast factors at zero, so that no gradient ever reaches them or the slow ones. Here u
    starts Glorot, with that code's gain of sqrt 2, and v zero. The update of q belongs to the projection, as in the
    paper's formula; that code adds it behind the scaling of the queries. Source: He et al., Parameter-efficient Model
    Adaptation for Vision Transformers, 2023.
    """

    name = "kadaptation"
    summary = "updates of q and v as sums of Kronecker products with shared factors"
    paper = "KAdaptation (He et al., 2023)"
    sites = ("attn.q", "attn.v")
    size_means = "terms"
    default_size = 32
    zero_start = True
    mergeable = True
    in_blocks = False
    in_backbone = True
    option_type = Options

    def count(self, shape: BackboneShape, placements: Sequence[Placed[Options]]) -> int:
        """Slow factors once, fast factors and a bias for each block."""
        (placement,) = placements
        length = placement.options.slow
        total = 4 * placement.size * length
        for block in shape.blocks:
            outputs = block.attention_width
            total += 2 * placement.size * (block.width // length + outputs // length) + outputs
        return total

    def build(self, shape: BackboneShape, placements: Sequence[Placed[Options]]) -> Tree:
        """`slow.q`, `slow.v`, and an `Update` under `blocks.N`."""
        (placement,) = placements
        options, tree = placement.options, Tree()
        for name in UPDATED:
            tree.add(f"slow.{name}", Slow(placement.size, options.slow))
        for index, block in enumerate(shape.blocks):
            sides = (block.width, block.attention_width)
            tree.add(f"blocks.{index}", Update(placement.size, *sides, options.slow, options.scale, options.dropout))
        return tree

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[Options]]) -> Iterator[Handle]:
        """On the output of what gives q and v."""
        for block, layer, update in _layers(model, module):
            yield block.behind(layer).around(partial(_adapt, module.get_submodule("slow"), update, layer.names))

    @torch.no_grad()
    def merge(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[Options]]) -> None:
        """Into the q and v rows of each weight and bias."""
        for block, layer, update in _layers(model, module):
            down, up, bias = update.factored(module.get_submodule("slow"), layer.names)
            block.matrix(layer).add_(up @ down)
            block.add_to_bias(layer, bias)

    def check_fit(self, shape: BackboneShape, placement: Placed[Options]) -> None:
        """Beyond the common rules, refuse a length of the slow factors that does not divide the channels."""
        length = placement.options.slow
        widths = [width for block in shape.blocks for width in (block.width, block.attention_width)]
        wrong = next((width for width in widths if not isinstance(length, int) or length < 1 or width % length), None)
        if wrong is not None:
            raise DesignError(
                f"option slow of kadaptation must be a whole number that divides the {wrong} channels of "
                f"{shape.name}, got slow={length}"
            )


def _layers(model: nn.Module, module: nn.Module) -> Iterator[tuple[BlockSites, Layer, Update]]:
    for block in family_of(model).block_sites(model):
        update = module.get_submodule(f"blocks.{block.shape.index}")
        assert isinstance(update, Update)
        yield from ((block, layer, update) for layer in block.shape.linears if set(layer.names) & set(UPDATED))


def _kronecker(left: Tensor, right: Tensor) -> Tensor:
    """(n, l) and (n, m) to their n Kronecker products (n, l m)."""
    return (left[:, :, None] * right[:, None, :]).flatten(1)


def _adapt(slow: nn.Module, update: Update, names: Sequence[str], x: Tensor, output: Tensor) -> Tensor:
    down, up, bias = update.factored(slow, names)
    output = output + bias.to(output.dtype)
    if update.training and update.dropout:
        # Dropout of single entries takes the whole matrix; without, its factors do.
        return add_product(output, x, F.dropout(up @ down, update.dropout))
    return add_product(output, reduce(x, down), up)
