"""GLoRA."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.design import DesignError
from petlas.petl.parts.block_method import BlockMethod
from petlas.petl.parts.elastic import Elastic
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.placed import Placed
from petlas.petl.parts.products import add_product, reduce
from petlas.petl.parts.tree import Tree
from petlas.petl.shape import BackboneShape, BlockShape, Layer

KINDS = {
    "a": ("lora", "vector", "scalar", "none"),
    "b": ("lora", "vector", "scalar", "none"),
    "c": ("lora", "vector", "none"),
    "d": ("vector", "scalar", "none"),
    "e": ("vector", "scalar", "none"),
}
"""The support tensors, and what each can be."""


class Product(Elastic):
    """A support tensor (rows, columns) of rank r: `down` (rows, r) zero times `up` (r, columns) Xavier."""

    axes = {"down": 1, "up": 0}
    summed = "down"

    def __init__(self, rows: int, columns: int, rank: int) -> None:
        super().__init__(rank)
        self.down = nn.Parameter(torch.zeros(rows, rank))
        self.up = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, columns)))

    def forward(self) -> Tensor:
        """The tensor (rows, columns)."""
        return self.part("down") @ self.part("up")


class Values(nn.Module):
    """A support tensor with one value for each row, or one for all; zero at the start."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(rows))

    def forward(self) -> Tensor:
        """The tensor (rows, 1), to be spread over its columns."""
        return self.value[:, None]


class Supports(nn.ModuleDict):
    """The support tensors of one linear layer, those of the kind `none` left out."""

    def weight_update(self, weight: Tensor) -> Tensor:
        """W * A + B, in a shape that spreads to the weight's (O, I)."""
        update = weight.new_zeros(1, 1)
        if "a" in self:
            update = update + weight * self["a"]()
        return update + self["b"]() if "b" in self else update

    def bias_update(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """b * D + E + W C, (O,).

        Args:
            weight: W (O, I).
            bias: b (O,).
        """
        update = weight.new_zeros(len(weight))
        if "c" in self:
            update = update + (weight @ self["c"]()).squeeze(1)
        if "d" in self:
            assert bias is not None
            update = update + bias * self["d"]().squeeze(1)
        return update + self["e"]().squeeze(1) if "e" in self else update

    def forward(self, layer: nn.Module, x: Tensor, output: Tensor) -> Tensor:
        """The layer's output (B, N, O) as the generalised weight and bias give it, from its input (B, N, I)."""
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        weight = layer.weight.flatten(1)
        gain, offset = weight.new_ones(1), self.bias_update(weight, layer.bias)
        a, b = self._modules.get("a"), self._modules.get("b")
        if isinstance(a, Values):
            # A gain of whole rows: the frozen product is at hand in the output, with the bias, which it leaves alone.
            gain = 1 + a.value
            offset = offset if layer.bias is None else offset - a.value * layer.bias
        result = torch.addcmul(offset, output, gain).to(output.dtype)
        if isinstance(a, Product):
            result = result + F.linear(x, weight * a())
        if isinstance(b, Product):
            return add_product(result, reduce(x, b.part("up")), b.part("down"))
        return result if b is None else result + x.sum(dim=-1, keepdim=True) * b().squeeze(1).to(x.dtype)


@dataclass(frozen=True)
class Options:
    """What a placement may set."""

    a: str = "vector"
    b: str = "lora"
    c: str = "none"
    d: str = "none"
    e: str = "vector"


class GLoRA(BlockMethod[Options]):
    """Every linear layer of a block with a generalised weight and bias: W' = W + W * A + B, b' = b + b * D + E + W C.

    For W (O, I), A and B are (O, I), C is (I, 1), D and E are (O,). The options `a` to `e` say of what kind each is:
    `lora`, a product of rank r; `vector`, one value for each row; `scalar`, one value; `none`. C is never a scalar, D
    and E are never of rank r, and a layer without a bias has no D. The paper picks the kinds for each layer by a
    search; a placement is one such choice for a block. The default scales the rows (A), updates them at a low rank (B)
    and shifts the output (E): C and D can do nothing that E cannot. `size` is the rank r; it matters to the kind
    `lora` only.

    Count for each layer: r (O + I), O or 1 for A and for B; r (I + 1) or I for C; O or 1 for D and for E (755,712 for
    ViT-B/16 at r = 4; 1,603,776 with `lora` and `vector` wherever they can be, as in the paper's supernet). Zero-start
    (the left factors and the values are 0), mergeable as written; a layer without a bias gets one. Source: Chavan et
    al., One-for-All: Generalized LoRA, 2023.
    """

    name = "glora"
    summary = "generalised weights and biases of all linear layers"
    paper = "GLoRA (Chavan et al., 2023)"
    sites = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    any_site = True
    size_means = "rank"
    default_size = 4
    zero_start = True
    mergeable = True
    shifts_keys = True
    replaces = "the frozen linear weights"
    option_type = Options

    def _supports(self, layer: Layer, placement: Placed[Options]) -> Iterator[tuple[str, str, int, int]]:
        """Name, kind, rows and columns of each support tensor of a layer."""
        rows = {"c": layer.inputs}
        columns = {"a": layer.inputs, "b": layer.inputs}
        for name, kind in asdict(placement.options).items():
            if kind != "none" and (layer.bias or name != "d"):
                yield name, kind, rows.get(name, layer.outputs), columns.get(name, 1)

    def _layers(self, block: BlockShape) -> Iterator[Layer]:
        return (layer for layer in block.layers if layer.kind == "linear")

    def count_block(self, block: BlockShape, placement: Placed[Options]) -> int:
        """The support tensors of each layer."""
        rank, total = placement.size, 0
        for layer in self._layers(block):
            for _, kind, rows, columns in self._supports(layer, placement):
                total += {"lora": rank * (rows + columns), "vector": rows, "scalar": 1}[kind]
        return total

    def build_block(self, block: BlockShape, placement: Placed[Options]) -> nn.Module:
        """`Supports` under each layer's place in the block."""
        tree = Tree()
        for layer in self._layers(block):
            supports = Supports()
            for name, kind, rows, columns in self._supports(layer, placement):
                values = partial(Values, rows if kind == "vector" else 1)
                supports[name] = Product(rows, columns, placement.size) if kind == "lora" else values()
            tree.add(layer.place, supports)
        return tree

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """On the output of each layer."""
        for layer, supports in self._pairs(block, module):
            yield block.behind(layer).around(partial(supports, block.layer(layer)))

    @torch.no_grad()
    def merge_block(self, block: BlockSites, module: nn.Module) -> None:
        """Into each layer's weight and bias."""
        for each, supports in self._pairs(block, module):
            weight = block.matrix(each)
            bias_update = supports.bias_update(weight, block.family.bias(block.model, each))
            weight += supports.weight_update(weight)
            if set(supports) & {"c", "d", "e"}:
                block.add_to_bias(each, bias_update)

    def _pairs(self, block: BlockSites, module: nn.Module) -> Iterator[tuple[Layer, Supports]]:
        for layer in self._layers(block.shape):
            supports = module.get_submodule(layer.place)
            assert isinstance(supports, Supports)
            yield layer, supports

    def check_fit(self, shape: BackboneShape, placement: Placed[Options]) -> None:
        """Beyond the common rules, refuse unknown kinds, and a choice that trains nothing."""
        chosen = asdict(placement.options)
        for name, kinds in KINDS.items():
            if chosen[name] not in kinds:
                raise DesignError(
                    f"option {name} of glora must be one of {', '.join(kinds)}, got {name}={chosen[name]!r}"
                )
        if not self.count_block(shape.blocks[placement.block], placement):
            raise DesignError(
                f"glora must train something, and block {placement.block} has nothing but {chosen}; "
                "give one of a, b, c and e another kind than none"
            )
