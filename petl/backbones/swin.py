"""Swin Transformers of timm, v1 and v2."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, ClassVar

from timm.layers.classifier import ClassifierHead
from timm.models import swin_transformer, swin_transformer_v2
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn

from petlas.petl.backbones.base import BackboneError, BlockSites
from petlas.petl.backbones.further import Keys, Tokens, attend_with_table, normed, with_keys, with_tokens
from petlas.petl.backbones.separate_bias import SeparateBias
from petlas.petl.backbones.site import Layout
from petlas.petl.backbones.stages import StageFamily
from petlas.petl.backbones.transformer import DROP_PATHS, NAMES, SITES
from petlas.petl.parts.handles import Handle
from petlas.petl.shape import Stage

NO_TOKENS = "it computes on maps, which hold patches and nothing else"
NO_PIXELS = "it takes images of one size"
NO_QUERIES = "its windows have a table of positions for their own queries only"


class WindowFamily(StageFamily):
    """What both versions share: stages of blocks on maps (B, H, W, C), windows within the attention.

    Patches are merged in front of the first block of a stage. The MLP works on (B, H W, C).
    """

    head_path = "head.fc"
    stages_path, blocks_path, between = "layers", "blocks", "downsample"
    names = NAMES
    drop_paths = DROP_PATHS
    in_model = {
        "images": ("patch_embed", "in"),
        "norm.in": ("norm", "in"),
        "norm.out": ("norm", "out"),
        "head.in": ("head.fc", "in"),
        "head.out": ("head.fc", "out"),
    }
    layouts: ClassVar[dict[str, Layout]] = {
        **{"block.in": "NHWC", "block": "NHWC", "block.out": "NHWC", "norm.in": "NHWC", "norm.out": "NHWC"},
        **{"attn.stream": "NHWC", "attn.normed": "NHWC", "attn.out": "NHWC", "attn.residual": "NHWC"},
        **{"attn.in": "windows", "attn": "windows", "conv.in": "NHWC", "conv.out": "NHWC"},
    }
    other_sites = frozenset(
        (
            *("backbone", "head", "patch_embed", "norm1", "norm2", "ls1", "ls2", "norm"),
            *("shortcut1", "shortcut2", "attn.qkv", "attn.keys", "attn.tokens"),
        )
    )
    lacks: ClassVar[dict[str, str]] = {"tokens": NO_TOKENS, "attn.queries": NO_QUERIES, "pixels": NO_PIXELS}
    recomputed = frozenset({"relative_position_bias_table"})
    model_type: ClassVar[type[nn.Module]]
    timm_module: ClassVar[ModuleType]

    def why_not(self, model: nn.Module) -> str | None:
        """Whether it is of the class, with timm's usual head."""
        if not isinstance(model, self.model_type):
            return ""
        return None if isinstance(model.head, ClassifierHead) else f"another head ({type(model.head).__name__})"

    def width(self, model: nn.Module) -> int:
        """timm's `num_features`."""
        width: int = self._swin(model).num_features
        return width

    def patch(self, model: nn.Module) -> tuple[int, int]:
        """That of the patch embedding."""
        height, width = self._embedding(model).patch_size
        return height, width

    def image_size(self, model: nn.Module) -> tuple[int, int]:
        """That of the patch embedding."""
        height, width = self._embedding(model).img_size
        return height, width

    def grid(self, model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
        """That of the patch embedding."""
        rows, columns = self._embedding(model).dynamic_feat_size(size)
        return rows, columns

    def stages(self, model: nn.Module) -> Sequence[Stage]:
        """timm's, each with half the rows and columns of the one before, rounded up."""
        rows, columns = self.grid(model, self.image_size(model))
        height, width = self.patch(model)
        found = []
        for layer in self.stage_modules(model):
            if not isinstance(layer.downsample, nn.Identity):
                rows, columns, height, width = -(-rows // 2), -(-columns // 2), 2 * height, 2 * width
            blocks: list[Any] = self.blocks_of(layer)
            found.append(Stage(len(blocks), blocks[0].dim, (height, width), (rows, columns)))
        return found

    def enter(self, model: nn.Module, images: Tensor) -> Tensor:
        """The patch embedding."""
        x: Tensor = self._embedding(model)(images)
        return x

    def leave(self, model: nn.Module, x: Tensor) -> Tensor:
        """The final norm, and timm's `forward_head`."""
        swin = self._swin(model)
        logits: Tensor = swin.forward_head(swin.norm(x))
        return logits

    def converted(self, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """By timm's filter, which interpolates tables of positions."""
        convert: Callable[..., dict[str, Tensor]] = self.timm_module.checkpoint_filter_fn
        return convert(state, model)

    def undecayed(self, model: nn.Module) -> set[str]:
        """What has to do with positions."""
        names: set[str] = set(self._swin(model).no_weight_decay())
        return names

    def more_keys(self, block: BlockSites, source: Keys) -> Iterator[Handle]:
        """In each window, where they stand nowhere."""
        yield from with_keys(block, source, attend_with_table)

    def _embedding(self, model: nn.Module) -> Any:
        return self._swin(model).patch_embed

    @abstractmethod
    def _swin(self, model: nn.Module) -> SwinTransformer | SwinTransformerV2:
        """The model as timm types it."""


class Swin(WindowFamily):
    """timm's `SwinTransformer`: pre-norm blocks, q, k and v fused, a table of relative positions.

    Maps are padded with zeros to whole windows behind `norm1`, so what stands at `attn.in` sees the padding, as q, k
    and v do.
    """

    name = "swin"
    summary = "a timm SwinTransformer"
    in_block = {**SITES, "conv.in": ("norm1", "out"), "conv.out": ("drop_path1", "in")}
    model_type: ClassVar[type[nn.Module]] = SwinTransformer
    timm_module: ClassVar[ModuleType] = swin_transformer

    def more_tokens(self, block: BlockSites, source: Tokens) -> Iterator[Handle]:
        """In each window, where they stand nowhere; they pass the norm alone that is in front of the attention."""
        yield from with_tokens(block, normed(block, source), attend_with_table)

    def _swin(self, model: nn.Module) -> SwinTransformer:
        if not isinstance(model, SwinTransformer):
            raise BackboneError(f"backbone must be a timm SwinTransformer, got a {type(model).__name__}")
        return model


class SwinV2(SeparateBias, WindowFamily):
    """timm's `SwinTransformerV2`: norms behind the branches, cosine attention, positions from a small network.

    A branch reads the stream itself. It ends behind its norm, so that `attn.out` and `mlp.out` are normed. The weight
    of q, k and v is used without calling the layer, with biases of q and v that stand apart.
    """

    name = "swinv2"
    summary = "a timm SwinTransformerV2"
    aside = ("attn.cpb_mlp",)
    biases = ("q_bias", "v_bias", "cpb_mlp.0.bias")
    in_block = {
        **SITES,
        **{"attn.stream": ("", "in"), "attn.normed": ("", "in")},
        **{"mlp.stream": ("mlp", "in"), "mlp.normed": ("mlp", "in")},
        **{"conv.in": ("", "in"), "conv.out": ("drop_path1", "in")},
    }
    model_type: ClassVar[type[nn.Module]] = SwinTransformerV2
    timm_module: ClassVar[ModuleType] = swin_transformer_v2

    def more_tokens(self, block: BlockSites, source: Tokens) -> Iterator[Handle]:
        """In each window, where they stand nowhere."""
        yield from with_tokens(block, source, attend_with_table)

    def _swin(self, model: nn.Module) -> SwinTransformerV2:
        if not isinstance(model, SwinTransformerV2):
            raise BackboneError(f"backbone must be a timm SwinTransformerV2, got a {type(model).__name__}")
        return model
