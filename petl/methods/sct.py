"""Salient channel tuning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.backbones.base import BlockSites
from petlas.petl.design import DesignError
from petlas.petl.parts.block_method import BlockMethod
from petlas.petl.parts.bottleneck import add_to
from petlas.petl.parts.elastic import Elastic
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.method import Batch, Loss
from petlas.petl.parts.placed import NoOptions, Placed
from petlas.petl.parts.stream import SITES as BETWEEN
from petlas.petl.parts.stream import Between
from petlas.petl.shape import BackboneShape, BlockShape


class ChannelMix(Elastic):
    """x (B, N, D) to W x_I + b in the K channels I, and 0 in the others: W (K, K), b (K), I in falling saliency."""

    axes = {"weight": (0, 1), "bias": 0, "index": 0}
    summed = "weight"
    index: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.weight = nn.Parameter(torch.empty(channels, channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("index", torch.arange(channels))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the stream."""
        index = self.part("index")
        mixed = F.linear(x.index_select(-1, index), self.part("weight"), self.part("bias"))
        return torch.zeros_like(x).index_copy(-1, index, mixed.to(x.dtype))


class SCT(BlockMethod[NoOptions]):
    """A small dense layer on the salient channels I between attention and MLP: x_I <- x_I + W x_I + b.

    Before training the K channels of each block are chosen on the task's training images: for each channel of the
    frozen backbone's stream x (B, N, D), the L2 norm over all patches of all images of a class, then the mean over the
    classes; the largest K win. Class, register and prompt tokens do not count in this, but are tuned like the patches.
    The chosen indices are saved with the adapter, in falling order, so that a narrower module has the most salient
    ones. Unprepared, the first K channels are used. `size` is K. Count: K^2 + K per block (111,744 for ViT-B/16 at
    K = 96). W starts normal with a standard deviation of 0.02, b at 0: near the backbone, not equal to it. The scale
    in the published settings has no effect in the published code, so there is none here. Not mergeable: the
    stream also goes on past the MLP, and there is no weight on that way. Source: Zhao et al., SCT: A Simple Baseline
    for Parameter-Efficient Fine-Tuning via Salient Channels, 2023.
    """

    name = "sct"
    summary = "a dense layer on the salient channels between attention and MLP"
    paper = "SCT (Zhao et al., 2023)"
    sites = ("attn.residual", "block.out")
    any_site = True
    needs = (*BETWEEN, "mlp.stream")
    size_means = "channels"
    default_size = 96
    zero_start = False
    mergeable = False
    fits_task = True
    option_type = NoOptions

    def count_block(self, block: BlockShape, placement: Placed[NoOptions]) -> int:
        """One dense layer with a bias."""
        return placement.size * placement.size + placement.size

    def build_block(self, block: BlockShape, placement: Placed[NoOptions]) -> nn.Module:
        """One `ChannelMix`."""
        return Between(ChannelMix(placement.size))

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """Between attention and MLP; behind a block of one branch."""
        assert isinstance(module, Between)
        if "attn" in block.shape.branches:
            yield from module.attach(block)
        else:
            yield block.site("block.out").change(partial(add_to, module.adapter))

    @torch.no_grad()
    def prepare(
        self,
        model: nn.Module,
        module: nn.Module,
        placements: Sequence[Placed[NoOptions]],
        batches: Iterable[Batch],
        loss: Loss,
    ) -> None:
        """Choose the channels of each block, with the method's own effect switched off; no loss is needed."""
        starts = [(parameter, parameter.clone()) for parameter in module.parameters()]
        for parameter, _ in starts:
            parameter.zero_()
        streams: list[Tensor] = []
        family = family_of(model)
        between = "mlp.stream" if "attn" in family.branches else "block.out"
        sites = [family.site(model, between, placement.block) for placement in placements]
        handles = [site.read(streams.append) for site in sites]
        saliency = [Saliency() for _ in placements]
        try:
            for images, targets in batches:
                streams.clear()
                model(images)
                for channels, stream in zip(saliency, streams, strict=True):
                    channels.add(stream[:, _patches(model, images)], targets)
        finally:
            for handle in handles:
                handle.remove()
            for parameter, start in starts:
                parameter.copy_(start)
        for placement, channels in zip(placements, saliency, strict=True):
            mix = module.get_submodule(f"{placement.path}.adapter")
            assert isinstance(mix, ChannelMix)
            mix.index.copy_(channels.scores().topk(mix.size).indices)

    def check_fit(self, shape: BackboneShape, placement: Placed[NoOptions]) -> None:
        """Beyond the common rules, refuse more channels than there are."""
        width = shape.blocks[placement.block].width
        if placement.size > width:
            raise DesignError(f"sct chooses at most the {width} channels of {shape.name}, got size={placement.size}")


class Saliency:
    """The mean over classes of each channel's L2 norm over all tokens of a class."""

    def __init__(self) -> None:
        self._squares: dict[int, Tensor] = {}

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Take in the features of some images.

        Args:
            features: Of their patches (B, P, D).
            targets: Their labels (B,), or which of the classes each one has (B, C).
        """
        squares = features.float().square().sum(1)
        classes = targets.unique().tolist() if targets.ndim == 1 else range(targets.shape[1])
        for label in classes:
            own = targets == label if targets.ndim == 1 else targets[:, label].bool()
            if own.any():
                self._squares[label] = self._squares.get(label, 0) + squares[own].sum(0)

    def scores(self) -> Tensor:
        """One number for each channel, (D,)."""
        return torch.stack([squares.sqrt() for squares in self._squares.values()]).mean(0)


def _patches(model: nn.Module, images: Tensor) -> slice:
    """Where the patches of these images (B, 3, H, W) stand in the sequence; everywhere, where there are maps."""
    family = family_of(model)
    if family.layouts.get("block.out", "NLC") != "NLC":
        return slice(None)
    rows, columns = family.grid(model, (images.shape[2], images.shape[3]))
    return slice(family.prefix_tokens(model), family.prefix_tokens(model) + rows * columns)
