"""EVA, EVA-02, DINOv3 and their kin, and BEiT: transformers of timm whose attention knows positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any, ClassVar

from timm.layers.patch_embed import PatchEmbed
from timm.models import beit, eva
from timm.models.beit import Beit as TimmBeit
from timm.models.eva import Eva as TimmEva
from timm.models.eva import EvaBlock
from torch import Tensor, nn

from petlas.petl.backbones.base import BackboneError, BlockSites
from petlas.petl.backbones.further import Keys, Tokens, attend_with_table, normed, with_keys, with_tokens
from petlas.petl.backbones.separate_bias import SeparateBias
from petlas.petl.backbones.tokens import TokenFamily, lengthened
from petlas.petl.backbones.transformer import SITES
from petlas.petl.parts.handles import Handle

NO_QUERIES = "its keys know where they stand, and queries from outside the sequence stand nowhere"
NO_STREAM = "its attention has a table of positions for its own tokens, so that further ones cannot flow through blocks"
NO_TABLE = "its attention has a table of positions for its own queries only"


class _Positioned(SeparateBias, TokenFamily):
    """What both share: pre-norm blocks whose attention is handed positions, q, k and v fused or apart, gated MLPs.

    A fused layer whose biases of q and v stand apart is used without being called.
    """

    names = TokenFamily.names | {
        **{"attn.q_proj": ("q",), "attn.k_proj": ("k",), "attn.v_proj": ("v",)},
        **{"mlp.fc1_x": ("fc1",), "mlp.fc1_g": ("gate",)},
    }
    scales = {"gamma_1": "proj", "gamma_2": "fc2"}
    biases = ("q_bias", "v_bias")
    in_block = {**SITES, "attn.in": ("attn", "in"), "mlp.in": ("mlp", "in")}
    timm_module: ClassVar[ModuleType]

    def converted(self, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """By timm's filter, which interpolates positions to the model's grid."""
        convert: Callable[..., dict[str, Tensor]] = self.timm_module.checkpoint_filter_fn
        return convert(state, model)

    def step(self, model: nn.Module, index: int, x: Tensor) -> Tensor:
        """A block with the positions that the model hands it."""
        y: Tensor = self.blocks(model)[index](x, **self.positions(model, index))
        return y

    def positions(self, model: nn.Module, index: int) -> dict[str, Tensor]:
        """What the model hands a block beside the stream.

        Args:
            model: The model.
            index: The block's.
        """
        raise NotImplementedError


class Eva(_Positioned):
    """timm's `Eva`: rotary positions, which turn the queries and keys of patches.

    Tokens that join the sequence behind the patches are turned by nothing, as class tokens are.
    """

    name = "eva"
    summary = "a pre-norm timm Eva"
    timm_module: ClassVar[ModuleType] = eva
    other_sites = TokenFamily.other_sites - {"attn.queries"}
    lacks: ClassVar[dict[str, str]] = TokenFamily.lacks | {"attn.queries": NO_QUERIES}

    def why_not(self, model: nn.Module) -> str | None:
        """What of a plain one a model has otherwise."""
        if not isinstance(model, TimmEva):
            return ""
        if not isinstance(model.patch_embed, PatchEmbed):
            return f"another stem ({type(model.patch_embed).__name__})"
        if model.patch_drop is not None:
            return "patches that are dropped in training (patch_drop_rate)"
        if any(getattr(model.rope, f"{how}_coords", None) for how in ("shift", "jitter", "rescale")):
            return "positions that are drawn in training (rope_*_coords)"
        return next(filter(None, map(_other_block, model.blocks)), None)

    def exposed(self, model: nn.Module) -> Iterator[Handle]:
        """Further tokens get rotations, too."""
        yield from super().exposed(model)
        if _eva(model).rope is not None:
            for block in self.blocks(model):
                attention = block.get_submodule("attn")
                turn = partial(_turn_all, self.prefix_tokens(model))
                yield attention.register_forward_pre_hook(turn, with_kwargs=True)

    def enter(self, model: nn.Module, images: Tensor) -> Tensor:
        """As of every family; in parts the rotations are those of the model's own image size.

        Raises:
            BackboneError: On images of another size.
        """
        size, own = tuple(images.shape[-2:]), self.image_size(model)
        if size != own:
            raise BackboneError(
                f"rotary positions are those of images of {own[0]} x {own[1]} where a model runs in parts, got "
                f"{size[0]} x {size[1]}; make the backbone with that img_size"
            )
        return super().enter(model, images)

    def positions(self, model: nn.Module, index: int) -> dict[str, Tensor]:
        """The rotations; those of the block, where each has its own."""
        whole = _eva(model)
        rope: Any = whole.rope
        if rope is None:
            return {}
        sized = getattr(rope, "feat_shape", None) is not None
        turns = rope.get_embed() if sized else rope.get_embed(shape=whole.patch_embed.grid_size)
        return {"rope": turns[index] if whole.rope_mixed else turns}


class Beit(_Positioned):
    """timm's `Beit`: tables of relative positions, which are added where queries meet keys."""

    name = "beit"
    summary = "a timm Beit"
    timm_module: ClassVar[ModuleType] = beit
    recomputed = frozenset({"pos_embed", "relative_position_bias_table"})
    other_sites = (TokenFamily.other_sites - {"attn.queries", "tokens"}) | {"attn.tokens"}
    lacks: ClassVar[dict[str, str]] = {**TokenFamily.lacks, "tokens": NO_STREAM, "attn.queries": NO_TABLE}

    def why_not(self, model: nn.Module) -> str | None:
        """Whether it is of the class."""
        return None if isinstance(model, TimmBeit) else ""

    def positions(self, model: nn.Module, index: int) -> dict[str, Tensor]:
        """The table that all blocks share."""
        table: Any = getattr(model, "rel_pos_bias", None)
        return {} if table is None else {"shared_rel_pos_bias": table()}

    def more_keys(self, block: BlockSites, source: Keys) -> Iterator[Handle]:
        """Among its own, where they stand nowhere."""
        yield from with_keys(block, source, attend_with_table)

    def more_tokens(self, block: BlockSites, source: Tokens) -> Iterator[Handle]:
        """Among its own, where they stand nowhere; they pass the norm alone that is in front of the attention."""
        yield from with_tokens(block, normed(block, source), attend_with_table)


def _eva(model: nn.Module) -> TimmEva:
    if not isinstance(model, TimmEva):
        raise BackboneError(f"backbone must be a timm Eva, got a {type(model).__name__}")
    return model


def _other_block(block: nn.Module) -> str | None:
    """What a block has that a plain one has not."""
    if not isinstance(block, EvaBlock):
        return f"other blocks ({type(block).__name__})"
    if block.attn.gate is not None:
        return "a gate in the attention of its blocks"
    if getattr(block.attn, "num_kv_groups", 1) > 1:
        return "keys that several heads share"
    return None


def _turn_all(
    prefix: int, attention: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """In front of the attention: as many rotations as there are tokens behind the first ones."""
    rope: Tensor | None = kwargs.get("rope")
    missing = 0 if rope is None else args[0].shape[1] - prefix - rope.shape[-2]
    if rope is None or missing <= 0:
        return args, kwargs
    return args, kwargs | {"rope": lengthened(rope, missing)}
