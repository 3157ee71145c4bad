"""Plain vision transformers of timm: ViT, DeiT without a second head, DINOv2, CLIP, SigLIP."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from petlas.petl.backbones.base import BackboneError, BlockSites
from petlas.petl.backbones.tokens import TokenFamily
from petlas.petl.backbones.transformer import SITES
from petlas.petl.parts.handles import Handle, bare_forward


class ViT(TokenFamily):
    """timm's `VisionTransformer` with a patch embedding, pre-norm blocks with fused q, k and v, and one head."""

    name = "vit"
    summary = "a plain pre-norm timm VisionTransformer"
    scales = {"ls1.gamma": "proj", "ls2.gamma": "fc2"}
    in_block = {**SITES, "attn.out": ("ls1", "out"), "mlp.out": ("ls2", "out")}
    other_heads = ("head_dist.",)

    def why_not(self, model: nn.Module) -> str | None:
        """What of a plain vision transformer a model has otherwise."""
        if not isinstance(model, VisionTransformer):
            return ""
        if not isinstance(model.patch_embed, PatchEmbed):
            return f"another stem ({type(model.patch_embed).__name__})"
        if hasattr(model, "head_dist"):
            return "a second head"
        if not isinstance(model.patch_drop, nn.Identity):
            return "patches that are dropped in training (patch_drop_rate)"
        return next(filter(None, map(_other_block, model.blocks)), None)

    def read_other(self, model: nn.Module, path: Path) -> bool:
        """Google's `.npz`."""
        if path.suffix != ".npz":
            return False
        vit = _vit(model)
        with np.load(path) as file:
            kernel = tuple(file["embedding/kernel"].shape[:2])
            blocks = {key.split("encoderblock_")[1].split("/")[0] for key in file.files if "encoderblock_" in key}
        patch = self.patch(model)
        if kernel != patch or len(blocks) != len(vit.blocks):
            raise BackboneError(
                f"it holds {len(blocks)} blocks and patches of {kernel}, "
                f"and the model has {len(vit.blocks)} and {patch}"
            )
        vit.load_pretrained(str(path))
        return True

    def converted(self, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """By timm's filter, which knows the spellings of CLIP, DINOv2 and others."""
        vit, embedding = _vit(model), state.get("pos_embed")
        if embedding is not None and vit.pos_embed is not None and embedding.shape != vit.pos_embed.shape:
            patches = embedding.shape[1] - (0 if vit.no_embed_class else vit.num_prefix_tokens)
            if (
                embedding.ndim != 3
                or embedding.shape[-1] != vit.embed_dim
                or math.isqrt(max(patches, 0)) ** 2 != patches
            ):
                raise BackboneError(
                    f"its position embeddings {tuple(embedding.shape)} are not those of {vit.num_prefix_tokens} prefix "
                    f"tokens and a square of patches of {vit.embed_dim} channels; take the backbone that they belong to"
                )
        converted: dict[str, Tensor] = checkpoint_filter_fn(state, vit)
        return converted

    def keys_and_values(self, block: BlockSites, see: Callable[[Tensor], None]) -> Iterator[Handle]:
        """The fused q, k and v (B, N, 3 A)."""
        yield block.behind(block.shape.linear("k")).read(see)

    def show_keys(self, block: nn.Module, x: Tensor) -> None:
        """The norm and the fused layer."""
        block.get_submodule("attn.qkv")(block.get_submodule("norm1")(x))

    def ask(self, block: nn.Module, tokens: Tensor, known: Tensor) -> Tensor:
        """Attention and MLP with both residual sums; drop-path does not act."""
        found = tokens + _run(block, "ls1", _attend(block.get_submodule("attn"), _run(block, "norm1", tokens), known))
        return found + _run(block, "ls2", _run(block, "mlp", _run(block, "norm2", found)))


def _vit(model: nn.Module) -> VisionTransformer:
    if not isinstance(model, VisionTransformer):
        raise BackboneError(f"backbone must be a timm VisionTransformer, got a {type(model).__name__}")
    return model


def _other_block(block: nn.Module) -> str | None:
    """What a block has that a plain one has not."""
    if not isinstance(block, Block):
        return f"other blocks ({type(block).__name__})"
    if not isinstance(block.attn, Attention) or not hasattr(block.mlp, "fc1"):
        return f"other blocks ({type(block.attn).__name__}, {type(block.mlp).__name__})"
    if not isinstance(block.norm1, nn.LayerNorm):
        return f"other norms in its blocks ({type(block.norm1).__name__})"
    return None


def _attend(attn: nn.Module, a: Tensor, qkv: Tensor) -> Tensor:
    """The attention of queries from a (B, T, D) to the keys and values of qkv (B, N, 3 A)."""
    heads = attn.num_heads
    _, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    q, _, _ = _run(attn, "qkv", a).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    found = F.scaled_dot_product_attention(_run(attn, "q_norm", q), _run(attn, "k_norm", k), v)
    found = _run(attn, "norm", found.transpose(1, 2).flatten(2))
    if attn.gate is not None:
        found = found * _run(attn, "gate", a).sigmoid()
    return _run(attn, "proj", found)


def _run(parent: nn.Module, name: str, x: Tensor) -> Tensor:
    """A layer's output, without its hooks."""
    y: Tensor = bare_forward(parent.get_submodule(name))(x)
    return y
