"""What families share whose stream is a sequence of tokens of one width, as timm's plain transformers have it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites, Family
from petlas.petl.backbones.further import Keys, with_keys
from petlas.petl.backbones.transformer import DROP_PATHS, NAMES
from petlas.petl.parts.handles import Handle, Side

NO_PIXELS = "it takes images of one size"
NO_MAPS = "it computes on tokens, which convolutions do not see as maps"


class TokenFamily(Family):
    """Blocks one behind the other on tokens (B, N, D), with class and register tokens in front of the patches."""

    apart = ("attn_pool.",)
    names = NAMES | {"fc_norm": ("norm",)}
    in_model: ClassVar[dict[str, tuple[str, Side]]] = {
        "images": ("patch_embed", "in"),
        "norm.in": ("norm", "in"),
        "norm.out": ("norm", "out"),
        "pooled": ("fc_norm", "out"),
        "head.in": ("head", "in"),
        "head.out": ("head", "out"),
    }
    other_sites = frozenset(
        (
            *("backbone", "tokens", "head", "patch_embed", "norm1", "norm2", "ls1", "ls2", "norm"),
            *("shortcut1", "shortcut2", "attn.qkv", "attn.keys", "attn.queries"),
        )
    )
    lacks: ClassVar[dict[str, str]] = {**dict.fromkeys(("conv.in", "conv.out"), NO_MAPS), "pixels": NO_PIXELS}
    drop_paths = DROP_PATHS
    attention = "attn"
    recomputed = frozenset({"pos_embed"})

    def block_paths(self, model: nn.Module) -> Sequence[str]:
        """`blocks.N`."""
        return [f"blocks.{name}" for name, _ in model.get_submodule("blocks").named_children()]

    def blocks(self, model: nn.Module) -> Sequence[nn.Module]:
        """Those of `block_paths`, without a look-up for each."""
        return list(model.get_submodule("blocks").children())

    def width(self, model: nn.Module) -> int:
        """timm's `embed_dim`."""
        width: int = _timm(model).embed_dim
        return width

    def prefix_tokens(self, model: nn.Module) -> int:
        """timm's `num_prefix_tokens`."""
        tokens: int = _timm(model).num_prefix_tokens
        return tokens

    def patch(self, model: nn.Module) -> tuple[int, int]:
        """That of the patch embedding."""
        height, width = _timm(model).patch_embed.patch_size
        return height, width

    def image_size(self, model: nn.Module) -> tuple[int, int]:
        """That of the patch embedding."""
        height, width = _timm(model).patch_embed.img_size
        return height, width

    def grid(self, model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
        """That of the patch embedding, which may pad."""
        rows, columns = _timm(model).patch_embed.dynamic_feat_size(size)
        return rows, columns

    def leave(self, model: nn.Module, x: Tensor) -> Tensor:
        """The final norm, and timm's `forward_head`."""
        whole = _timm(model)
        logits: Tensor = whole.forward_head(whole.norm(x))
        return logits

    def is_norm(self, path: str, module: nn.Module) -> bool:
        """By the name, as timm has norms of many kinds."""
        return "norm" in path.rsplit(".", 1)[-1]

    def undecayed(self, model: nn.Module) -> set[str]:
        """Class and register tokens, and position embeddings."""
        names: set[str] = set(_timm(model).no_weight_decay()) | {"reg_token"}
        return names

    def more_keys(self, block: BlockSites, source: Keys) -> Iterator[Handle]:
        """Rows in the attention."""
        yield from with_keys(block, source, _attend_turned)


def lengthened(positions: Tensor, rows: int) -> Tensor:
    """Rotations (..., N, 2 d), sines in front of cosines, with further ones that turn nothing (..., N + rows, 2 d).

    Args:
        positions: The rotations.
        rows: How many join them.
    """
    sines, cosines = positions.chunk(2, dim=-1)
    return torch.cat((F.pad(sines, (0, 0, 0, rows)), F.pad(cosines, (0, 0, 0, rows), value=1.0)), dim=-1)


def _timm(model: nn.Module) -> Any:
    return model


def _attend_turned(attention: nn.Module, x: Tensor, rows: int, rope: Tensor | None = None, **masks: Any) -> Tensor:
    """The attention's own forward; what joins it is turned by nothing."""
    if rope is not None:
        masks["rope"] = lengthened(rope, rows)
    attended: Tensor = type(attention).forward(attention, x, **masks)
    return attended
