"""GPS."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.design import DesignError
from petlas.petl.parts.elastic import Elastic
from petlas.petl.parts.handles import ForwardOverride, Handle
from petlas.petl.parts.method import Batch, Loss, Method
from petlas.petl.parts.placed import NoOptions, Placed
from petlas.petl.parts.tree import Tree
from petlas.petl.shape import BackboneShape, Layer

TEMPERATURE = 0.07


class Entries(Elastic):
    """Updates of K entries in each row of a weight (O, I), and of its bias if it has one, zero at the start.

    `index` (O, K) says which entries, the best first; the weight itself is never written to.
    """

    axes = {"index": 1, "delta": 1}
    index: Tensor

    def __init__(self, layer: Layer, count: int) -> None:
        super().__init__(count)
        self.register_buffer("index", torch.arange(count, dtype=torch.int32).repeat(layer.outputs, 1))
        self.delta = nn.Parameter(torch.zeros(layer.outputs, count))
        self.bias = nn.Parameter(torch.zeros(layer.outputs)) if layer.bias else None

    def weight(self, weight: Tensor) -> Tensor:
        """The layer's weight with the updates."""
        rows = weight.flatten(1)
        return rows.scatter_add(1, self.part("index").long(), self.part("delta")).view_as(weight)

    @torch.no_grad()
    def choose(self, gradient: Tensor) -> None:
        """Take the entries with the largest gradient of each row."""
        self.index.copy_(gradient.flatten(1).abs().topk(self.size).indices)


class GPS(Method[NoOptions]):
    """Of each output's connections, the K with the largest gradients are trained, and the biases.

    y = (W + dW) x + b + db, where dW is zero but for the chosen entries of each row of each linear layer and of the
    patch embedding; only these are stored, by index and value, so that no decay or momentum can reach another entry.
    Norms, tokens and position embeddings stay frozen. `size` is K. Count: K + 1 for each output of those layers, (9 L D
    + D) (K + 1) for a plain ViT (167,424 for ViT-B/16 at K = 1). Zero-start; mergeable: W <- W + dW, b <- b + db.

    `prepare` chooses: it sums the gradient of a supervised contrastive loss (temperature 0.07) over the training
    images, each in two views, on the normalised features in front of the head; the views are random crops of 20 to
    100% of the area, mirrored at random. Without it, the first K inputs of each row are taken. The public code's views
    change colours, too; and it trains LayerScale's vectors, which here stay frozen. Source: Zhang et al.,
    Gradient-based Parameter Selection, 2024.
    """

    name = "gps"
    summary = "the connections with the largest gradients are trained"
    paper = "GPS (Zhang et al., 2024)"
    sites = ("patch_embed", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    any_site = True
    size_means = "connections"
    default_size = 1
    zero_start = True
    mergeable = True
    in_backbone = True
    replaces = "the frozen linear weights"
    fits_task = True
    option_type = NoOptions

    def _layers(
        self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]
    ) -> Iterator[tuple[Layer, Placed[NoOptions]]]:
        return ((layer, p) for p in placements for layer in shape.layers_of(p.place) if layer.kind != "norm")

    def count(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> int:
        """K entries, and a bias where there is one, for each output."""
        return sum(layer.outputs * (p.size + layer.bias) for layer, p in self._layers(shape, placements))

    def build(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> Tree:
        """The entries under each layer's name."""
        tree = Tree()
        for layer, placement in self._layers(shape, placements):
            tree.add(layer.key, Entries(layer, placement.size))
        return tree

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[NoOptions]]) -> Iterator[Handle]:
        """In place of each layer's own product, so that there is one only."""
        for layer, _ in self._layers(family_of(model).shape(model), placements):
            own, entries = model.get_submodule(layer.path), module.get_submodule(layer.key)
            assert isinstance(entries, Entries)
            yield ForwardOverride(own, partial(_forward, entries, own))

    def _pairs(
        self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[NoOptions]]
    ) -> Iterator[tuple[nn.Module, Entries]]:
        for layer, _ in self._layers(family_of(model).shape(model), placements):
            entries = module.get_submodule(layer.key)
            assert isinstance(entries, Entries)
            yield model.get_submodule(layer.path), entries

    @torch.no_grad()
    def merge(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[NoOptions]]) -> None:
        """Into each layer's weight and bias."""
        for layer, entries in self._pairs(model, module, placements):
            weight = layer.get_parameter("weight")
            weight.copy_(entries.weight(weight))
            if entries.bias is not None:
                layer.get_parameter("bias").add_(entries.bias)

    def prepare(
        self,
        model: nn.Module,
        module: nn.Module,
        placements: Sequence[Placed[NoOptions]],
        batches: Iterable[Batch],
        loss: Loss,
    ) -> None:
        """Choose the entries by the gradients of one pass over the images; the loss is the method's own."""
        pairs = list(self._pairs(model, module, placements))
        weights = [layer.get_parameter("weight") for layer, _ in pairs]
        frozen = [weight for weight in weights if not weight.requires_grad]
        sums = [torch.zeros_like(weight) for weight in weights]
        try:
            for weight in frozen:
                weight.requires_grad_(True)
            for images, targets in batches:
                doubled = torch.cat((targets, targets))
                contrast = _contrast(model, torch.cat((_view(images), _view(images))), doubled)
                for total, gradient in zip(sums, torch.autograd.grad(contrast, weights), strict=True):
                    total.add_(gradient)
        finally:
            for weight in frozen:
                weight.requires_grad_(False)
        for (_, entries), total in zip(pairs, sums, strict=True):
            entries.choose(total)

    def check_fit(self, shape: BackboneShape, placement: Placed[NoOptions]) -> None:
        """Beyond the common rules, refuse more connections than an output has."""
        for layer, _ in self._layers(shape, (placement,)):
            if placement.size > layer.connections:
                raise DesignError(
                    f"gps takes at most the {layer.connections} connections of an output of {layer.path}, "
                    f"got size={placement.size}"
                )


def _forward(entries: Entries, layer: nn.Module, x: Tensor) -> Tensor:
    weight = entries.weight(layer.get_parameter("weight"))
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    bias = layer.bias if layer.bias is None or entries.bias is None else layer.bias + entries.bias
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
    return F.linear(x, weight, bias)


def _view(images: Tensor) -> Tensor:
    """A random crop of each image (B, 3, H, W), scaled to its size and mirrored at random."""
    side, x, y, mirror = torch.rand(4, len(images)).to(images)
    side = (0.2 + 0.8 * side).sqrt()
    nought = torch.zeros_like(side)
    rows = (side * (mirror - 0.5).sign(), nought, (1 - side) * (2 * x - 1), nought, side, (1 - side) * (2 * y - 1))
    grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _contrast(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The supervised contrastive loss of Khosla et al., 2020: images of one class attract, others repel.

    Where an image may have several classes (B, C), those that share one are alike; one that has none is like its other
    view alone.
    """
    features = F.normalize(family_of(model).features(model, images), dim=-1)
    itself = torch.eye(len(targets), dtype=torch.bool, device=targets.device)
    likeness = (features @ features.T / TEMPERATURE).masked_fill(itself, -torch.inf)
    if targets.ndim > 1:
        views = itself.roll(len(targets) // 2, dims=1)
        alike = ((targets.float() @ targets.float().T > 0) | views) & ~itself
    else:
        alike = (targets[:, None] == targets) & ~itself
    log_share = likeness.log_softmax(dim=-1).masked_fill(~alike, 0.0)
    return -(log_share.sum(dim=-1) / alike.sum(dim=-1)).mean()
