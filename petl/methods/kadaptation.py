"""KAdaptation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.design import DesignError, Placement
from petlas.petl.methods.base import Elastic, Handle, Method, Tree
from petlas.petl.methods.low_rank import add_to_bias, spread
from petlas.petl.methods.narrow import add_product, reduce
from petlas.petl.shape import BackboneShape


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

    def factored(self, slow: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        """For the fused q, k and v: P (2 n, D) and s Q (3 O, 2 n), whose product is the update of the weight, and c.

        The Kronecker product of two matrices of rank one has rank one: (a b^T) o (u v^T) = (a o u) (b o v)^T.
        """
        downs, ups = [], []
        for share, fast in ((0, self.q), (2, self.v)):
            shared = slow.get_submodule("qkv"[share])
            assert isinstance(shared, Slow)
            downs.append(_kronecker(shared.part("inputs"), fast.part("inputs")))
            up = _kronecker(shared.part("outputs"), fast.part("outputs")).t()
            ups.append((share * len(self.bias), self.scale * up))
        bias = torch.cat((self.bias, torch.zeros_like(self.bias), self.bias))
        return torch.cat(downs), spread(ups, 3 * len(self.bias)), bias


class KAdaptation(Method):
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
    options = {"slow": 32, "scale": 160.0, "dropout": 0.5}

    def _length(self, placement: Placement) -> int:
        return int(self.option(placement, "slow") or 0)

    def count(self, shape: BackboneShape, placements: Sequence[Placement]) -> int:
        """Slow factors once, fast factors and a bias for each block."""
        (placement,) = placements
        assert placement.size is not None
        total, length = 4 * placement.size * self._length(placement), self._length(placement)
        for block in range(shape.depth):
            outputs = shape.attention_width(block)
            total += 2 * placement.size * (shape.width // length + outputs // length) + outputs
        return total

    def build(self, shape: BackboneShape, placements: Sequence[Placement]) -> Tree:
        """`slow.q`, `slow.v`, and an `Update` under `blocks.N`."""
        (placement,) = placements
        assert placement.size is not None
        length = self._length(placement)
        scale, dropout = (float(self.option(placement, name) or 0.0) for name in ("scale", "dropout"))
        tree = Tree()
        for name in "qv":
            tree.add(f"slow.{name}", Slow(placement.size, length))
        for block in range(shape.depth):
            sides = (shape.width, shape.attention_width(block))
            tree.add(f"blocks.{block}", Update(placement.size, *sides, length, scale, dropout))
        return tree

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placement]) -> Iterator[Handle]:
        """On the output of each `attn.qkv`."""
        for layer, update in _layers(model, module):
            yield layer.register_forward_hook(partial(_adapt, module.get_submodule("slow"), update))

    @torch.no_grad()
    def merge(self, model: nn.Module, module: nn.Module, placements: Sequence[Placement]) -> None:
        """Into the q and v rows of each fused weight and bias."""
        for layer, update in _layers(model, module):
            down, up, bias = update.factored(module.get_submodule("slow"))
            layer.get_parameter("weight").add_(up @ down)
            add_to_bias(layer, bias)

    def check(self, shape: BackboneShape, placement: Placement) -> None:
        """Beyond the common rules, refuse a length of the slow factors that does not divide the channels."""
        super().check(shape, placement)
        length = self.option(placement, "slow")
        widths = {shape.width, *(shape.attention_width(block) for block in range(shape.depth))}
        if not isinstance(length, int) or length < 1 or any(width % length for width in widths):
            raise DesignError(
                f"option slow of kadaptation must be a whole number that divides the {shape.width} channels of "
                f"{shape.name}, got slow={length}"
            )


def _layers(model: nn.Module, module: nn.Module) -> Iterator[tuple[nn.Module, Update]]:
    for block, update in module.get_submodule("blocks").named_children():
        assert isinstance(update, Update)
        yield model.get_submodule(f"blocks.{block}.attn.qkv"), update


def _kronecker(left: Tensor, right: Tensor) -> Tensor:
    """(n, l) and (n, m) to their n Kronecker products (n, l m)."""
    return (left[:, :, None] * right[:, None, :]).flatten(1)


def _adapt(slow: nn.Module, update: Update, layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    (x,) = args
    down, up, bias = update.factored(slow)
    output = output + bias.to(output.dtype)
    if update.training and update.dropout:
        # Dropout of single entries takes the whole matrix; without, its factors do.
        return add_product(output, x, F.dropout(up @ down, update.dropout))
    return add_product(output, reduce(x, down), up)
