"""What formulas need to know of a backbone: its layers and their sizes. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Layer:
    """A linear, norm or convolution layer: its path in the backbone, kind and channel counts."""

    path: str
    kind: Literal["linear", "norm", "conv"]
    inputs: int
    outputs: int
    bias: bool

    @property
    def parameters(self) -> tuple[str, ...]:
        """The paths of its weight and, where it has one, its bias."""
        return (f"{self.path}.weight", f"{self.path}.bias")[: 1 + self.bias]


@dataclass(frozen=True)
class BlockTensor:
    """A tensor of a block in which q, k and v stand apart: a share of one of the backbone's parameters.

    Args:
        name: Such as `q`, `q.bias` or `norm1.weight`.
        path: The full path of the parameter, such as `blocks.0.attn.qkv.weight`.
        start: Its first entry within the flattened parameter.
        rows: Of a matrix; 1 for a vector.
        columns: Of a matrix; the length of a vector.
    """

    name: str
    path: str
    start: int
    rows: int
    columns: int

    @property
    def block(self) -> int:
        """The block that it is in."""
        return int(self.path.split(".")[1])

    @property
    def entries(self) -> int:
        """How many numbers it holds."""
        return self.rows * self.columns

    @property
    def is_vector(self) -> bool:
        """Whether it is a bias or a scale."""
        return self.rows == 1


@dataclass(frozen=True)
class BackboneShape:
    """The sizes of a vision transformer, in timm's terms.

    Args:
        name: The timm name.
        width: Channels of a token (D).
        depth: Blocks.
        patch: Height and width of a patch in pixels.
        grid: Rows and columns of patches.
        prefix_tokens: Class and register tokens in front of the patches.
        layer_scale: Whether the blocks scale their branches by learned vectors, `ls1.gamma` and `ls2.gamma`.
        layers: Every layer from the patch embedding to the last norm, in order; the head is excluded.
        params: Parameters of the whole backbone, head excluded.
    """

    name: str
    width: int
    depth: int
    patch: tuple[int, int]
    grid: tuple[int, int]
    prefix_tokens: int
    layer_scale: bool
    layers: tuple[Layer, ...]
    params: int

    def layers_of(self, block: int | None) -> tuple[Layer, ...]:
        """The layers of one block, or of the whole backbone for None."""
        if block is None:
            return self.layers
        return tuple(layer for layer in self.layers if layer.path.startswith(f"blocks.{block}."))

    def attention_width(self, block: int | None) -> int:
        """Channels of the keys of a block, over all heads: a third of its fused q, k and v."""
        return self.layer(f"blocks.{block}.attn.qkv").outputs // 3

    def layer(self, path: str) -> Layer:
        """The layer at a path such as `blocks.0.attn.qkv`."""
        return next(layer for layer in self.layers if layer.path == path)


LINEARS = {"attn.qkv": ("q", "k", "v"), "attn.proj": ("proj",), "mlp.fc1": ("fc1",), "mlp.fc2": ("fc2",)}
"""The linear layers of a block, each with the names of the equal shares of its rows."""


def block_tensors(shape: BackboneShape, block: int) -> tuple[BlockTensor, ...]:
    """The tensors of a block that it has, in the order of the forward pass: q, k, v, then their biases, and so on."""
    tensors: list[BlockTensor] = []
    for layer in shape.layers_of(block):
        place = layer.path.removeprefix(f"blocks.{block}.")
        if place in ("norm1", "norm2"):
            tensors += (BlockTensor(path.split(".", 2)[2], path, 0, 1, layer.outputs) for path in layer.parameters)
        elif place in LINEARS:
            names, rows = LINEARS[place], layer.outputs // len(LINEARS[place])
            weight, *bias = layer.parameters
            size = rows * layer.inputs
            tensors += (BlockTensor(n, weight, i * size, rows, layer.inputs) for i, n in enumerate(names))
            tensors += (BlockTensor(f"{n}.bias", path, i * rows, 1, rows) for path in bias for i, n in enumerate(names))
        scale = {"attn.proj": "ls1.gamma", "mlp.fc2": "ls2.gamma"}.get(place)
        if shape.layer_scale and scale:
            tensors.append(BlockTensor(scale, f"blocks.{block}.{scale}", 0, 1, shape.width))
    return tuple(tensors)
