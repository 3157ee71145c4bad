"""What formulas need to know of a backbone: its blocks, its layers, their sizes and its sites. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

LINEAR_SITES = {
    **{"q": "attn.q", "k": "attn.k", "v": "attn.v", "proj": "attn.proj"},
    **{"fc1": "mlp.fc1", "gate": "mlp.gate", "fc2": "mlp.fc2"},
}
"""The linear layers that methods ask for by name, whatever a family calls them, and their sites."""

GATE = "gate"
"""That of gated MLPs alone: no family is refused for being without."""


@dataclass(frozen=True)
class Layer:
    """A linear, norm or convolution layer: where it stands, its kind and its channel counts.

    Args:
        path: Its path in the backbone.
        kind: What it is.
        inputs: Channels that go in.
        outputs: Channels that come out.
        bias: Whether it has one.
        block: The block that it is in, from 0; None outside the blocks.
        place: Its path within the block; the whole path outside the blocks.
        names: What its outputs are called, in equal shares: `("q", "k", "v")` for a fused layer, `("fc1",)` for one
            that is nothing else; empty where no method asks for it by name.
        connections: Weights of each output.
        shadowed: Whether the backbone uses its weight without calling it, so that no hook on it ever runs.
        kernel: Side of its filters, of a convolution.
    """

    path: str
    kind: Literal["linear", "norm", "conv"]
    inputs: int
    outputs: int
    bias: bool
    block: int | None = None
    place: str = ""
    names: tuple[str, ...] = ()
    connections: int = 1
    shadowed: bool = False
    kernel: int = 1

    @property
    def parameters(self) -> tuple[str, ...]:
        """The paths of its weight and, where it has one, its bias."""
        return (f"{self.path}.weight", f"{self.path}.bias")[: 1 + self.bias]

    @property
    def key(self) -> str:
        """Its name in adapter files, the same whatever the backbone calls its blocks: `blocks.N.PLACE`."""
        return _outside(self.path) if self.block is None else f"blocks.{self.block}.{self.place}"

    @property
    def size(self) -> int:
        """Parameters of it, its bias included."""
        return self.outputs * (self.connections + self.bias)

    @property
    def share(self) -> int:
        """Outputs of each name."""
        return self.outputs // max(1, len(self.names))


@dataclass(frozen=True)
class Scale:
    """A learned vector that scales a branch, such as LayerScale's.

    Args:
        path: Of the parameter.
        place: Its path within the block.
        block: The block that it is in.
        length: Channels.
        behind: The name of the linear layer whose outputs it scales.
    """

    path: str
    place: str
    block: int
    length: int
    behind: str


@dataclass(frozen=True)
class Other:
    """A parameter of a block that belongs to none of its layers, such as a table of relative positions.

    Args:
        path: Of the parameter.
        block: The block that it is in.
        entries: How many numbers it holds.
        bias: Whether it is a bias of a layer that has none by that name.
    """

    path: str
    block: int
    entries: int
    bias: bool = False


@dataclass(frozen=True)
class BlockTensor:
    """A tensor of a block in which q, k and v stand apart: a share of one of the backbone's parameters.

    Args:
        name: Such as `q`, `q.bias` or `norm1.weight`.
        path: The full path of the parameter in the backbone.
        start: Its first entry within the flattened parameter.
        rows: Of a matrix; 1 for a vector.
        columns: Of a matrix; the length of a vector.
        block: The block that it is in.
    """

    name: str
    path: str
    start: int
    rows: int
    columns: int
    block: int = 0

    @property
    def entries(self) -> int:
        """How many numbers it holds."""
        return self.rows * self.columns

    @property
    def is_vector(self) -> bool:
        """Whether it is a bias or a scale."""
        return self.rows == 1


@dataclass(frozen=True)
class Stage:
    """Blocks in a row that are alike: of one width, on one grid. A plain vision transformer is one stage.

    Args:
        depth: Blocks.
        width: Channels of a token in these blocks.
        patch: Height and width in pixels of what a token stands for.
        grid: Rows and columns of tokens.
    """

    depth: int
    width: int
    patch: tuple[int, int]
    grid: tuple[int, int]


@dataclass(frozen=True)
class BlockShape:
    """One block of a backbone: what the formula of a placement needs.

    Args:
        index: From 0, through all stages.
        width: Channels of a token in this block (D).
        patch: Height and width in pixels of what a token stands for at the start.
        grid: Rows and columns of patches.
        prefix_tokens: Class and register tokens in front of the patches.
        layers: Its layers, in the order of the forward pass.
        scales: Its learned scales.
        stage: That it is in, from 0.
        branches: The residual branches of the block, `attn` and `mlp`, or `mlp` alone.
    """

    index: int
    width: int
    patch: tuple[int, int]
    grid: tuple[int, int]
    prefix_tokens: int
    layers: tuple[Layer, ...]
    scales: tuple[Scale, ...]
    stage: int = 0
    branches: tuple[str, ...] = ("attn", "mlp")

    @cached_property
    def linears(self) -> tuple[Layer, ...]:
        """The linear layers that have names: those that methods update."""
        return tuple(layer for layer in self.layers if layer.kind == "linear" and layer.names)

    def linear(self, name: str) -> Layer:
        """The linear layer of which `name` is a share."""
        return next(layer for layer in self.linears if name in layer.names)

    @cached_property
    def tensors(self) -> tuple[BlockTensor, ...]:
        """Its tensors that have names, in the order of the forward pass.

        Of a fused layer the shares come first, then their biases: q, k, v, `q.bias`, `k.bias`, `v.bias`.
        """
        tensors: list[BlockTensor] = []
        scales = {scale.behind: scale for scale in self.scales}
        for layer in self.layers:
            if layer.names:
                tensors += _tensors_of(layer, self.index)
                if scale := scales.get(layer.names[-1]):
                    tensors.append(BlockTensor(scale.place, scale.path, 0, 1, scale.length, self.index))
        return tuple(tensors)

    @property
    def attention_width(self) -> int:
        """Channels of the queries, keys and values of all heads together."""
        return self.linear("q").share


@dataclass(frozen=True)
class BackboneShape:
    """The sizes of a backbone.

    Args:
        name: The timm name.
        stages: Its blocks in groups, in the order of the forward pass.
        prefix_tokens: Class and register tokens in front of the patches.
        layers: Every layer from the patch embedding to the last norm, in order; the head is excluded.
        params: Parameters of the whole backbone, head excluded.
        scales: The learned scales of the branches, in order.
        block_paths: Where each block stands in the backbone.
        sites: The names of the sites that the family has.
        others: The parameters of blocks that belong to none of the layers.
        branches: The residual branches of each block.
        lacks: Why it has not what others have, by the names of the sites.
        gap: Why it cannot run in parts, so that nothing of it can be kept; None where it can.
        image: Height and width in pixels of the images that it is used at.
    """

    name: str
    stages: tuple[Stage, ...]
    prefix_tokens: int
    layers: tuple[Layer, ...]
    params: int
    scales: tuple[Scale, ...] = ()
    block_paths: tuple[str, ...] = ()
    sites: frozenset[str] = field(default_factory=frozenset)
    others: tuple[Other, ...] = ()
    branches: tuple[str, ...] = ("attn", "mlp")
    lacks: Mapping[str, str] = field(default_factory=dict, hash=False)
    gap: str | None = None
    image: tuple[int, int] = (0, 0)

    @property
    def depth(self) -> int:
        """Blocks of all stages."""
        return sum(stage.depth for stage in self.stages)

    @property
    def widths(self) -> tuple[tuple[int, int], ...]:
        """Blocks and width of each stage."""
        return tuple((stage.depth, stage.width) for stage in self.stages)

    @property
    def width(self) -> int:
        """Channels of a token (D) behind the last block: everywhere, where there is one stage."""
        return self.stages[-1].width

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width in pixels of a token that enters the first block."""
        return self.stages[0].patch

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens that enter the first block."""
        return self.stages[0].grid

    @property
    def layer_scale(self) -> bool:
        """Whether branches are scaled by learned vectors."""
        return bool(self.scales)

    @cached_property
    def _by_block(self) -> dict[int | None, tuple[Layer, ...]]:
        groups: dict[int | None, list[Layer]] = {}
        for layer in self.layers:
            groups.setdefault(layer.block, []).append(layer)
        return {block: tuple(layers) for block, layers in groups.items()}

    def sites_at(self, block: int | None) -> frozenset[str]:
        """The names of the sites of one block, whose layers may be others than those of the next; of all for None."""
        if block is None:
            return self.sites
        known = {name for layer in self.blocks[block].linears for name in layer.names}
        return self.sites - {site for name, site in LINEAR_SITES.items() if name not in known}

    def layers_of(self, block: int | None) -> tuple[Layer, ...]:
        """The layers of one block, or of the whole backbone for None."""
        return self.layers if block is None else self._by_block.get(block, ())

    def key(self, path: str) -> str:
        """What a parameter of the backbone is called in adapter files: `blocks.N.` and its place in the N-th block."""
        for index, block in enumerate(self.block_paths):
            if path.startswith(f"{block}."):
                return f"blocks.{index}." + path.removeprefix(f"{block}.")
        return _outside(path)

    def layer(self, path: str) -> Layer:
        """The layer at a path of the backbone."""
        return next(layer for layer in self.layers if layer.path == path)

    @cached_property
    def blocks(self) -> tuple[BlockShape, ...]:
        """Each block by itself."""
        stages = [(number, stage) for number, stage in enumerate(self.stages) for _ in range(stage.depth)]
        return tuple(
            BlockShape(
                index=index,
                width=stage.width,
                patch=stage.patch,
                grid=stage.grid,
                prefix_tokens=self.prefix_tokens,
                layers=self.layers_of(index),
                scales=tuple(scale for scale in self.scales if scale.block == index),
                stage=number,
                branches=self.branches,
            )
            for index, (number, stage) in enumerate(stages)
        )


def block_tensors(shape: BackboneShape, block: int) -> tuple[BlockTensor, ...]:
    """The tensors of a block that have names, in the order of the forward pass.

    Args:
        shape: The backbone's.
        block: The block's index.
    """
    return shape.blocks[block].tensors


def _outside(path: str) -> str:
    """The name of what stands outside the blocks: `head` is the classifier's alone, not that of a norm beside it."""
    return path.replace("head.", "head_", 1) if path.startswith("head.") else path


def _tensors_of(layer: Layer, block: int) -> Iterator[BlockTensor]:
    if layer.kind == "norm":
        (name,) = layer.names
        for path in layer.parameters:
            yield BlockTensor(f"{name}.{path.rpartition('.')[2]}", path, 0, 1, layer.outputs, block)
        return
    weight, *bias = layer.parameters
    rows, size = layer.share, layer.share * layer.connections
    for share, name in enumerate(layer.names):
        yield BlockTensor(name, weight, share * size, rows, layer.connections, block)
    for path in bias:
        for share, name in enumerate(layer.names):
            yield BlockTensor(f"{name}.bias", path, share * rows, 1, rows, block)
