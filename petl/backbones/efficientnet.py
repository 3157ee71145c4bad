"""EfficientNets of timm, with their kin: MobileNetV2, MnasNet, EfficientNet-Lite and others of the same class."""

from __future__ import annotations

from timm.models.efficientnet import EfficientNet as TimmEfficientNet
from torch import Tensor, nn

from petlas.petl.backbones.base import BackboneError
from petlas.petl.backbones.convs import ConvFamily
from petlas.petl.parts.handles import Side


class EfficientNet(ConvFamily):
    """timm's `EfficientNet`: inverted bottlenecks of 1 x 1, depthwise and 1 x 1 convolutions.

    A norm and an activation are one module. The first blocks have no widening convolution: their one of 1 x 1 is `fc1`.
    """

    name = "efficientnet"
    summary = "a timm EfficientNet with batch norms"
    head_path = "classifier"
    stages_path = "blocks"
    names = {
        **{"conv_pw": ("fc1",), "bn1": ("norm1",), "conv_dw": ("conv",), "bn2": ("norm2",)},
        **{"conv_pwl": ("fc2",), "bn3": ("norm3",), "conv_exp": ("conv",), "conv": ("conv",)},
    }
    in_model = {
        "images": ("conv_stem", "in"),
        "head.in": ("classifier", "in"),
        "head.out": ("classifier", "out"),
    }
    drop_paths = {"mlp": "drop_path"}
    other_heads = ("_fc.",)

    def why_not(self, model: nn.Module) -> str | None:
        """Whether it is of the class, with batch norms and plain convolutions."""
        if not isinstance(model, TimmEfficientNet):
            return ""
        others = [type(m).__name__ for m in model.modules() if type(m).__name__ in ("CondConv2d", "MixedConv2d")]
        return f"other convolutions ({others[0]})" if others else self.other_norms(model)

    def converted(self, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """From EfficientNet-PyTorch's names, which stand in the same order."""
        if "_conv_stem.weight" not in state:
            return state
        own = [key for key in model.state_dict() if not key.startswith(f"{self.head_path}.")]
        given = [value for key, value in state.items() if not key.startswith(self.other_heads)]
        return dict(zip(own, given, strict=True))

    def place(self, model: nn.Module, name: str, block: int) -> tuple[str, Side]:
        """Blocks have a depthwise convolution, or a dense one in its place."""
        if name not in ("conv.in", "conv.out"):
            return super().place(model, name, block)
        own = [child for child, _ in self.blocks(model)[block].named_children()]
        host = next(child for child in ("conv_dw", "conv_exp", "conv") if child in own)
        return host, "in" if name == "conv.in" else "out"

    def leave(self, model: nn.Module, x: Tensor) -> Tensor:
        """timm's last convolution with its norm, and `forward_head`."""
        if not isinstance(model, TimmEfficientNet):
            raise BackboneError(f"backbone must be a timm EfficientNet, got a {type(model).__name__}")
        logits: Tensor = model.forward_head(model.bn2(model.conv_head(x)))
        return logits
