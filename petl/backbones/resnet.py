"""ResNets of timm, and those of CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from timm.models.byobnet import BottleneckBlock, ByobNet
from timm.models.resnet import ResNet as TimmResNet
from torch import Tensor, nn

from petlas.petl.backbones.base import BackboneError
from petlas.petl.backbones.convs import ConvFamily
from petlas.petl.parts.handles import Side


class ResNet(ConvFamily):
    """timm's `ResNet`, with blocks of two or three convolutions; a squeeze and excitation ends the branch, if any."""

    name = "resnet"
    summary = "a timm ResNet with batch norms"
    head_path = "fc"
    names = {
        **{"conv1": ("fc1",), "bn1": ("norm1",), "conv2": ("conv",), "bn2": ("norm2",)},
        **{"conv3": ("fc2",), "bn3": ("norm3",)},
    }
    in_model = {"images": ("conv1", "in"), "head.in": ("fc", "in"), "head.out": ("fc", "out")}
    drop_paths = {"mlp": "drop_path"}

    def why_not(self, model: nn.Module) -> str | None:
        """Whether it is of the class, with batch norms."""
        return self.other_norms(model) if isinstance(model, TimmResNet) else ""

    def stage_paths(self, model: nn.Module) -> Sequence[str]:
        """`layerS`."""
        return [name for name, _ in model.named_children() if name.startswith("layer")]

    def branch_end(self, block: nn.Module) -> str:
        """The squeeze and excitation, or the last norm of the branch."""
        return "se" if isinstance(getattr(block, "se", None), nn.Module) else super().branch_end(block)

    def leave(self, model: nn.Module, x: Tensor) -> Tensor:
        """timm's `forward_head`."""
        if not isinstance(model, TimmResNet):
            raise BackboneError(f"backbone must be a timm ResNet, got a {type(model).__name__}")
        logits: Tensor = model.forward_head(x)
        return logits


class ClipResNet(ConvFamily):
    """timm's `ByobNet` with bottlenecks, as CLIP's ResNets are; a norm and an activation are one module.

    CLIP's attention that pools belongs to the backbone, and to no block.
    """

    name = "resnet_clip"
    summary = "a ResNet of CLIP (a timm ByobNet of bottlenecks)"
    head_path = "head.proj"
    apart = ("head.",)
    stages_path = "stages"
    names = {
        **{"conv1_1x1.conv": ("fc1",), "conv1_1x1.bn": ("norm1",), "conv2_kxk.conv": ("conv",)},
        **{"conv2_kxk.bn": ("norm2",), "conv3_1x1.conv": ("fc2",), "conv3_1x1.bn": ("norm3",)},
    }
    in_block: ClassVar[dict[str, tuple[str, Side]]] = {
        **ConvFamily.in_block,
        **{"conv.in": ("conv2_kxk.conv", "in"), "conv.out": ("conv2_kxk.conv", "out")},
    }
    in_model = {"images": ("stem", "in"), "head.in": ("head.proj", "in"), "head.out": ("head.proj", "out")}
    other_sites = ConvFamily.other_sites - {"pixels"}
    lacks: ClassVar[dict[str, str]] = ConvFamily.lacks | {
        "pixels": "the attention that pools has positions for maps of one size"
    }
    drop_paths = {"mlp": "drop_path"}

    def why_not(self, model: nn.Module) -> str | None:
        """Whether it is of the class, with bottlenecks alone, an attention that pools, and batch norms."""
        if not isinstance(model, ByobNet):
            return ""
        if not all(isinstance(block, BottleneckBlock) for block in self.blocks(model)):
            return "other blocks"
        return self.other_norms(model) if hasattr(model.head, "proj") else "another head"

    def branch_end(self, block: nn.Module) -> str:
        """Stochastic depth, or what stands in its place."""
        return "drop_path"

    def leave(self, model: nn.Module, x: Tensor) -> Tensor:
        """timm's last convolution, if any, and `forward_head`."""
        if not isinstance(model, ByobNet):
            raise BackboneError(f"backbone must be a timm ByobNet, got a {type(model).__name__}")
        logits: Tensor = model.forward_head(model.final_conv(x))
        return logits
