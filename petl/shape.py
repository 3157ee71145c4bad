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
