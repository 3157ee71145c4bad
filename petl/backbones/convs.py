"""What families of networks share whose blocks end in batch norms: one residual branch, maps (B, C, H, W)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from petlas.petl.backbones.maps import MapFamily, is_dense
from petlas.petl.backbones.site import Layout
from petlas.petl.backbones.still import BATCH_NORMS
from petlas.petl.parts.handles import Side
from petlas.petl.shape import Stage

NO_TOKENS = "it computes on maps, which hold pixels and nothing else"
NO_ATTENTION = "its blocks have convolutions in place of the attention, and one residual sum"
NO_MLP = "its blocks have a convolution between their layers of 1 x 1, and enter with another width than they leave"
NO_SHORTCUT = "what goes past a branch is downsampled, or joined by nothing"


class ConvFamily(MapFamily):
    """A family whose blocks are convolutions, each with a batch norm, and end with the last of these.

    What ends the one branch is named after the MLP that ends it elsewhere: `mlp.out` is behind the last norm. The first
    block of a stage takes another width and another grid than it gives: so there is no `mlp.stream`.
    """

    branches = ("mlp",)
    grid_site = "block.out"
    in_block: ClassVar[dict[str, tuple[str, Side]]] = {
        "block.in": ("", "in"),
        **{"conv.in": ("conv2", "in"), "conv.out": ("bn2", "out")},
        "mlp.out": ("", "out"),  # found in each block, see `branch_end`
        "block": ("", "out"),
        "block.out": ("", "out"),
    }
    layouts: ClassVar[dict[str, Layout]] = dict.fromkeys(in_block, "NCHW")
    other_sites = frozenset(("backbone", "head", "patch_embed", "norm1", "norm2", "norm", "pixels"))
    lacks: ClassVar[dict[str, str]] = {
        "tokens": NO_TOKENS,
        **dict.fromkeys(("attn", "attn.in", "attn.out", "attn.normed", "attn.residual"), NO_ATTENTION),
        **dict.fromkeys(("attn.qkv", "attn.q", "attn.k", "attn.v", "attn.proj"), NO_ATTENTION),
        **dict.fromkeys(("attn.keys", "attn.queries"), NO_ATTENTION),
        **dict.fromkeys(("mlp", "mlp.in", "mlp.normed", "mlp.stream", "mlp.residual", "mlp.gate"), NO_MLP),
        **dict.fromkeys(("shortcut1", "shortcut2"), NO_SHORTCUT),
    }

    def branch_end(self, block: nn.Module) -> str:
        """The module whose output ends a block's branch, by its place: the last norm.

        Args:
            block: The block.
        """
        ends: list[str] = [name for name, _ in block.named_children() if name.startswith("bn")]
        return ends[-1]

    def place(self, model: nn.Module, name: str, block: int) -> tuple[str, Side]:
        """`mlp.out` is found in each block."""
        if name == "mlp.out":
            return self.branch_end(self.blocks(model)[block]), "out"
        return super().place(model, name, block)

    def width(self, model: nn.Module) -> int:
        """Channels behind the last block."""
        return self.shape(model).width if hasattr(model, "petl") else self._left(model)[-1][0]

    def patch(self, model: nn.Module) -> tuple[int, int]:
        """How many pixels a place of the map stands for that enters the first block."""
        height, width = self.image_size(model)
        rows, columns = self.grid(model, (height, width))
        return round(height / rows), round(width / columns)

    def grid(self, model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
        """What the stem leaves."""
        rows, columns = _traced(model, self.blocks(model)[:1], size, before=True)[0][1:]
        return rows, columns

    def stages(self, model: nn.Module) -> Sequence[Stage]:
        """timm's, by what leaves their last blocks."""
        height, width = self.image_size(model)
        left, found = iter(self._left(model)), []
        for stage in self.stage_modules(model):
            blocks = len(self.blocks_of(stage))
            channels, rows, columns = [next(left) for _ in range(blocks)][-1]
            found.append(Stage(blocks, channels, (round(height / rows), round(width / columns)), (rows, columns)))
        return found

    def layer_layout(self, module: nn.Module) -> Layout:
        """All but the head's works on maps."""
        return "NLC" if isinstance(module, nn.Linear) else "NCHW"

    def is_norm(self, path: str, module: nn.Module) -> bool:
        """Batch norms."""
        return isinstance(module, BATCH_NORMS)

    def is_linear(self, module: nn.Module) -> bool:
        """Dense 1 x 1 convolutions."""
        return super().is_linear(module) or is_dense(module)

    def other_norms(self, model: nn.Module) -> str | None:
        """What a model has in place of batch norms, if it has them elsewhere."""
        own = [module for path, module in model.named_modules() if not path.startswith("petl.")]
        norms = [m for m in own if "norm" in type(m).__name__.lower() and hasattr(m, "weight")]
        return next((f"other norms ({type(m).__name__})" for m in norms if not isinstance(m, BATCH_NORMS)), None)

    def _left(self, model: nn.Module) -> list[tuple[int, int, int]]:
        return _traced(model, self.blocks(model), self.image_size(model))


@torch.no_grad()
def _traced(
    model: nn.Module, modules: Sequence[nn.Module], size: tuple[int, int], before: bool = False
) -> list[tuple[int, int, int]]:
    """Channels, rows and columns of what leaves some modules, or enters them, without computing any number.

    Args:
        model: The model.
        modules: Some of its modules, in the order of the forward pass.
        size: Height and width of the images.
        before: What enters them.
    """
    seen: list[tuple[int, int, int]] = []

    def look(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        _, channels, rows, columns = (args[0] if before else output).shape
        seen.append((channels, rows, columns))

    hooks = [module.register_forward_hook(look, prepend=True) for module in modules]
    try:
        state = {path: t.to("meta") for path, t in (*model.named_parameters(), *model.named_buffers())}
        images = torch.empty(1, 3, *size, device="meta", dtype=next(model.parameters()).dtype)
        with _passed_by(module for module in model.modules() if isinstance(module, BATCH_NORMS)):
            torch.func.functional_call(model, state, (images,))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@contextmanager
def _passed_by(norms: Iterable[nn.Module]) -> Iterator[None]:
    """Norms that give what they take: sizes are the same, and torch takes long for those of batch norms."""
    own = [(vars(norm), vars(norm).get("forward")) for norm in norms]
    try:
        for known, _ in own:
            known["forward"] = _same
        yield
    finally:
        for known, forward in own:
            del known["forward"]
            if forward is not None:
                known["forward"] = forward


def _same(x: Tensor) -> Tensor:
    return x
