"""ConvNeXt of timm, v1 and v2, with linear and with convolutional MLPs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from timm.models.convnext import ConvNeXt as TimmConvNeXt
from timm.models.convnext import checkpoint_filter_fn
from torch import Tensor, nn

from petlas.petl.backbones.base import BackboneError
from petlas.petl.backbones.maps import MapFamily, conv_grid, is_dense
from petlas.petl.backbones.site import Layout
from petlas.petl.shape import Stage

NO_ATTENTION = "its blocks have a convolution in place of the attention, and one residual sum"


class ConvNeXt(MapFamily):
    """timm's `ConvNeXt`: one residual branch, a depthwise convolution, a norm and an MLP.

    The stream is (B, C, H, W); within the MLP it is (B, H, W, C), or (B, C, H, W) where the MLP is made of 1 x 1
    convolutions. What stands around the one branch is named after the MLP that ends it: `mlp.stream` is what enters the
    block, `mlp.normed` what the MLP reads, `mlp.out` the end of the branch behind the scale `gamma`.
    """

    name = "convnext"
    summary = "a timm ConvNeXt"
    head_path = "head.fc"
    stages_path, blocks_path, between = "stages", "blocks", "downsample"
    drop_paths = {"mlp": "drop_path"}
    branches = ("mlp",)
    aside = ("mlp.grn",)
    biases = ("grn.bias",)
    names = {
        "conv_dw": ("conv",),
        "norm": ("norm2",),
        "mlp.fc1": ("fc1",),
        "mlp.fc2": ("fc2",),
        "norm_pre": ("norm",),
        "head.norm": ("norm",),
    }
    in_block = {
        "block.in": ("", "in"),
        **{"conv.in": ("conv_dw", "in"), "conv.out": ("conv_dw", "out")},
        "mlp.stream": ("", "in"),
        "mlp.normed": ("norm", "out"),
        "mlp.in": ("mlp.fc1", "in"),
        "mlp": ("mlp", "out"),
        "mlp.out": ("drop_path", "in"),
        "mlp.residual": ("drop_path", "out"),
        "block": ("", "out"),
        "block.out": ("", "out"),
    }
    in_model = {"images": ("stem", "in"), "head.in": ("head.fc", "in"), "head.out": ("head.fc", "out")}
    layouts: ClassVar[dict[str, Layout]] = {
        **{"block.in": "NCHW", "block": "NCHW", "block.out": "NCHW", "mlp.stream": "NCHW"},
        **{"mlp.out": "NCHW", "mlp.residual": "NCHW", "conv.in": "NCHW", "conv.out": "NCHW"},
    }
    other_sites = frozenset(("backbone", "head", "patch_embed", "norm2", "norm", "shortcut2", "pixels"))
    lacks: ClassVar[dict[str, str]] = {
        "tokens": "it computes on maps, which hold pixels and nothing else",
        **dict.fromkeys(("attn", "attn.in", "attn.out", "attn.normed", "attn.residual"), NO_ATTENTION),
        **dict.fromkeys(("attn.qkv", "attn.q", "attn.k", "attn.v", "attn.proj"), NO_ATTENTION),
        **dict.fromkeys(("attn.keys", "attn.queries"), NO_ATTENTION),
    }

    def why_not(self, model: nn.Module) -> str | None:
        """Whether it is of the class."""
        return None if isinstance(model, TimmConvNeXt) else ""

    def width(self, model: nn.Module) -> int:
        """timm's `num_features`."""
        return _convnext(model).num_features

    def patch(self, model: nn.Module) -> tuple[int, int]:
        """The stride of the stem."""
        (first, *_) = self._info(model)
        reduction: int = first["reduction"]
        return reduction, reduction

    def grid(self, model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
        """What the stem's convolutions leave."""
        return conv_grid(_convnext(model).stem, size)

    def stages(self, model: nn.Module) -> Sequence[Stage]:
        """timm's."""
        grid, found = self.grid(model, self.image_size(model)), []
        for stage, info in zip(self.stage_modules(model), self._info(model), strict=True):
            grid = conv_grid(stage.get_submodule("downsample"), grid)
            found.append(Stage(len(self.blocks_of(stage)), info["num_chs"], (info["reduction"],) * 2, grid))
        return found

    def layer_layout(self, module: nn.Module) -> Layout:
        """timm's norms of maps work on (B, C, H, W), as convolutions do."""
        return "NCHW" if isinstance(module, nn.Conv2d) or type(module).__name__.endswith("2d") else "NLC"

    def site_layout(self, model: nn.Module, name: str, block: int | None) -> Layout:
        """Within the MLP it depends on what the MLP is made of."""
        if block is None or name not in ("mlp.normed", "mlp.in", "mlp"):
            return super().site_layout(model, name, block)
        return "NCHW" if self.blocks(model)[block].use_conv_mlp else "NHWC"

    def is_norm(self, path: str, module: nn.Module) -> bool:
        """By the name, as timm has norms of many kinds."""
        return "norm" in path.rsplit(".", 1)[-1] or super().is_norm(path, module)

    def is_linear(self, module: nn.Module) -> bool:
        """Dense 1 x 1 convolutions are, too."""
        return super().is_linear(module) or is_dense(module)

    def enter(self, model: nn.Module, images: Tensor) -> Tensor:
        """The stem."""
        x: Tensor = _convnext(model).stem(images)
        return x

    def leave(self, model: nn.Module, x: Tensor) -> Tensor:
        """timm's norm, where it is in front of the pooling, and `forward_head`."""
        convnext = _convnext(model)
        logits: Tensor = convnext.forward_head(convnext.norm_pre(x))
        return logits

    def converted(self, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """By timm's filter, which knows the spelling of the authors' files."""
        converted: dict[str, Tensor] = checkpoint_filter_fn(state, model)
        return converted

    def _info(self, model: nn.Module) -> list[Any]:
        return list(_convnext(model).feature_info)


def _convnext(model: nn.Module) -> TimmConvNeXt:
    if not isinstance(model, TimmConvNeXt):
        raise BackboneError(f"backbone must be a timm ConvNeXt, got a {type(model).__name__}")
    return model
