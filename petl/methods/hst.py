"""Hierarchical side-tuning."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.parts.grid import TokenGrid
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.method import Method
from petlas.petl.parts.placed import NoOptions, Placed
from petlas.petl.parts.side import SITES as SIDE
from petlas.petl.parts.side import Side, attend
from petlas.petl.parts.tuned_copies import TunedCopies
from petlas.petl.shape import BackboneShape, Layer

DIMS = (32, 48, 64, 72)
"""Channels of the four stages."""

HEADS = (2, 4, 8, 12)
"""Attention heads of the four stages."""

_EPS = 1e-6


class SideBlock(nn.Module):
    """x (B, M, c) asks two tokens of a backbone block, adds the block's features, and passes an MLP.

    x <- x + CrossAttention(LN x; g), x <- x + f, x <- x + MLP(LN x). Parameters: 12 c^2 + 13 c.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.head = dim // heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, _EPS), nn.LayerNorm(dim, _EPS)
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor, g: Tensor, f: Tensor) -> Tensor:
        """x and f (B, M, c), g (B, 2, c)."""
        k, v = self.kv(g).chunk(2, dim=-1)
        x = x + self.proj(attend(self.q(self.norm1(x)), k, v, self.head)) + f
        added: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return added


class Stage(nn.Module):
    """One resolution of the pyramid: a convolution with stride, and a side block for each of its backbone blocks.

    Args:
        shape: The backbone's.
        index: Of the stage.
        blocks: Number of backbone blocks that it reads.
    """

    def __init__(self, shape: BackboneShape, index: int, blocks: int) -> None:
        super().__init__()
        dim = DIMS[index]
        self.embed: nn.Module
        if index == 0:
            stem = nn.Conv2d(3, dim, 3, stride=2, padding=1, bias=False)
            self.embed = nn.Sequential(stem, nn.BatchNorm2d(dim), nn.ReLU(), nn.Conv2d(dim, dim, 2, stride=2))
        else:
            self.embed = nn.Conv2d(DIMS[index - 1], dim, 3, stride=2, padding=1)
        self.embed_norm = nn.LayerNorm(dim)
        self.bridge = nn.Linear(shape.width, dim) if blocks else None
        self.meta_norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(blocks))
        self.blocks = nn.ModuleList(SideBlock(dim, HEADS[index]) for _ in range(blocks))
        self.norm = nn.LayerNorm(dim, _EPS)

    def forward(self, x: Tensor, features: list[Tensor], grid: tuple[int, int]) -> Tensor:
        """A map (B, c', H', W') and the blocks' patches with their MetaG behind (B, P + 1, D) to a map (B, c, H, W)."""
        x = self.embed(x)
        size = x.shape[-2:]
        x = self.embed_norm(x.flatten(2).transpose(1, 2))
        for tokens, meta_norm, block in zip(features, self.meta_norms, self.blocks, strict=True):
            assert self.bridge is not None
            bridged = self.bridge(tokens)
            # the bridge is affine and the weights of the interpolation add up to 1, so that their order is free
            f = bridged[:, :-1].transpose(1, 2).unflatten(2, grid)
            f = F.interpolate(f, size, mode="bilinear").flatten(2).transpose(1, 2)
            x = block(x, torch.cat((meta_norm(bridged[:, -1:]), f.mean(dim=1, keepdim=True)), dim=1), f)
        out: Tensor = self.norm(x).transpose(1, 2).unflatten(2, size)
        return out


class Pyramid(Side):
    """The side network with the MetaG tokens, and the backbone's norms that are tuned with it."""

    undecayed = ("tokens",)

    def __init__(self, shape: BackboneShape) -> None:
        super().__init__()
        self.grid = TokenGrid(shape)
        self.tokens = nn.Parameter(torch.empty(shape.depth, shape.width))
        self.counts = [stages_of(shape.depth).count(index) for index in range(len(DIMS))]
        self.stages = nn.ModuleList(Stage(shape, index, blocks) for index, blocks in enumerate(self.counts))
        self.pooled_norm = nn.BatchNorm1d(DIMS[-1], eps=_EPS, affine=False)
        self.backbone = TunedCopies({path: shape.key(path) for path in _norm_paths(shape)})
        self._pooled: Tensor | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Linear layers truncated normal of 0.02, convolutions normal by their fan-out, MetaG Xavier, biases 0."""
        bound = math.sqrt(3 / self.tokens.shape[1])
        nn.init.uniform_(self.tokens, -bound, bound)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor, features: list[Tensor]) -> Tensor:
        """Images (B, 3, H, W) and each block's patches with MetaG behind (B, P + 1, D) to the head's input (B, c)."""
        x, first = images, 0
        for stage, blocks in zip(self.stages, self.counts, strict=True):
            x = stage(x, features[first : first + blocks], self.grid.size)
            first += blocks
        means = x.mean(dim=(2, 3))
        if self.training and means.shape[0] == 1:  # a batch of one has no variance
            return self._standardised(means)
        pooled: Tensor = self.pooled_norm(means)
        return pooled

    def _standardised(self, means: Tensor) -> Tensor:
        """Means (1, c) normalised as in evaluation, which leaves what is known of other batches as it is."""
        known = self.pooled_norm
        return F.batch_norm(means, known.running_mean, known.running_var, training=False, eps=known.eps)

    def begin(self, images: Tensor) -> None:
        """At the images (B, 3, H, W): a pass begins; keep them."""
        self.open(images)
        self.keep(images)

    def enter(self, index: int, x: Tensor) -> Tensor:
        """In front of a block: put its MetaG token behind the sequence.

        Args:
            index: The block's.
            x: The sequence (B, N, D).
        """
        token = self.tokens[index].to(x.dtype)
        return torch.cat((x, token.expand(x.shape[0], 1, -1)), dim=1)

    def leave(self, output: Tensor) -> Tensor:
        """Behind a block: take the MetaG token away from (B, N + 1, D), and keep it with the patches."""
        rows, columns = self.grid.size
        patches = output[:, self.grid.first : self.grid.first + rows * columns]
        self.keep(torch.cat((patches, output[:, -1:]), dim=1))
        return output[:, :-1]

    def end(self, x: Tensor) -> None:
        """In front of the final norm: run the side network."""
        images, *features = self.close()
        self._pooled = self(images, features)

    def replace(self, features: Tensor) -> Tensor:
        """In front of the head: put the side network's output in place of the backbone's (B, D)."""
        pooled, self._pooled = self._pooled, None
        if pooled is None:
            raise RuntimeError("the head was reached without the final norm: run the model as a whole")
        return pooled

    def forget(self) -> None:
        """Let go of what a pass that was not finished has left."""
        super().forget()
        self._pooled = None


class HST(Method[NoOptions]):
    """A convolutional pyramid beside the backbone, which reads every block, and the backbone's block norms, tuned.

    Every block l gets one learned token MetaG_l (D), which stands behind the others in the block and leaves behind it
    (without position embedding its place makes no difference to attention). Its output and the block's patches (B, P,
    D) feed the side network: four stages of 32, 48, 64 and 72 channels at strides 4, 8, 16 and 32 of the image, with 2,
    4, 8 and 12 heads. Consecutive quarters of the blocks belong to the stages (3 each of 12; of fewer than 4 blocks
    some stages get none), with one side block for each: x <- x + CrossAttention(LN x; [LN_l T MetaG_l, mean f]),
    x <- x + f, x <- x + MLP(LN x), where f = T(patches), resized bilinearly to the stage, and T is the stage's bridge
    from D channels. The stem is a 3 x 3 convolution of stride 2 without bias, batch norm, ReLU, a 2 x 2 convolution of
    stride 2 and a layer norm; between stages stand 3 x 3 convolutions of stride 2 with a layer norm. The mean over the
    last map, with a batch norm that has no parameters, is the head's input: the head has 72 inputs. What other methods
    put at the final norm has no effect beside it.

    Count: L D for MetaG, 4 D for the norms of each block, and for the stages with n blocks each: n (12 c^2 + 13 c) in
    side blocks, 2 n c in norms of MetaG, D c + c in the bridge if n > 0, 4 c in two norms, and convolutions of 5,056 +
    13,872 + 27,712 + 41,544 (764,840 for ViT-B/16: 727,976 and 36,864 in the backbone's norms, head excluded; the
    published 0.78M includes one). Not zero-start, not mergeable. Gradients pass through the backbone. In training, a
    batch needs 2 images or more. Source: Lin et al., Hierarchical Side-Tuning, 2023.
    """

    name = "hst"
    summary = "a convolutional pyramid that reads every block"
    paper = "HST (Lin et al., 2023)"
    sites = ("tokens", "norm1", "norm2", "head")
    needs = (*SIDE, "norm.in", "head.in")
    final_norm = True
    option_type = NoOptions
    zero_start = False
    mergeable = False
    blockwise = False
    in_blocks = False
    in_backbone = True
    replaces = "the head's input"

    def count(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> int:
        """MetaG, norms of the blocks, and the stages."""
        d, stages = shape.width, stages_of(shape.depth)
        norms = sum(layer.outputs * (1 + layer.bias) for layer in _norms(shape))
        convolutions = 3 * 9 * 32 + 2 * 32 + 4 * 32 * 32 + 32
        convolutions += sum(9 * a * b + b for a, b in pairwise(DIMS))
        side = sum(4 * c for c in DIMS) + sum(d * DIMS[s] + DIMS[s] for s in set(stages))
        side += sum(12 * c * c + 13 * c + 2 * c for c in (DIMS[s] for s in stages))
        return shape.depth * d + norms + convolutions + side

    def build(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> Pyramid:
        """One pyramid."""
        return Pyramid(shape)

    def paths(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> list[str]:
        """The norms of the blocks."""
        return _norm_paths(shape)

    def head_inputs(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> int:
        """The channels of the last stage."""
        return DIMS[-1]

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[NoOptions]]) -> Iterator[Handle]:
        """Take over the norms, put tokens around each block, and write at the head."""
        assert isinstance(module, Pyramid)
        family = family_of(model)
        module.backbone.place(model)
        yield module.backbone
        yield module.grid.follow(model)
        yield family.site(model, "images").read(module.begin)
        for index, block in enumerate(family.block_sites(model)):
            yield block.site("block.in").change(partial(module.enter, index))
            yield block.site("block.out").change(module.leave)
        yield family.site(model, "norm.in").read(module.end)
        yield family.site(model, "head.in").change(module.replace)


def stages_of(depth: int) -> list[int]:
    """The stage that reads each block."""
    return [len(DIMS) * block // depth for block in range(depth)]


def _norms(shape: BackboneShape) -> list[Layer]:
    """The norms in front of the branches."""
    return [layer for block in shape.blocks for layer in block.layers if layer.kind == "norm" and layer.names]


def _norm_paths(shape: BackboneShape) -> list[str]:
    return [path for layer in _norms(shape) for path in layer.parameters]
