"""Whatever else timm has: its layers are known, and what its blocks are made of is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from petlas.petl.backbones import FAMILIES, get_family
from petlas.petl.backbones.base import Family
from petlas.petl.backbones.followed import Followed, follow
from petlas.petl.backbones.maps import is_dense
from petlas.petl.backbones.site import Layout, Site
from petlas.petl.backbones.still import BATCH_NORMS, batch_norms
from petlas.petl.parts.draws import Draws
from petlas.petl.parts.handles import Handle
from petlas.petl.shape import LINEAR_SITES, Stage

UNKNOWN = (
    "of this architecture petlas knows the layers, and not what its blocks are made of, so that it offers linear, "
    "full, bitfit, ln_tune, and lora, dora and linear_adapter on linear layers and 1 x 1 convolutions (targets: all)"
)
_NEEDED = ("forward_features", "forward_head", "get_classifier", "reset_classifier")


class Generic(Family):
    """Any other model of timm that has one head.

    One forward pass without numbers shows which modules it calls one behind the other: these are its blocks, see
    `follow`. A linear layer or 1 x 1 convolution of a block is named after its place there, with `_` for dots. A model
    that hands on more than one tensor from block to block, or draws random numbers in training, does not run in parts.
    """

    name = "generic"
    summary = "any other timm model with one head"
    fallback = True
    other_sites = frozenset({"backbone", "head", "biases", "norms"})
    biases = ("bias",)
    branches = ()
    lacks: ClassVar[dict[str, str]] = dict.fromkeys(
        (
            *("tokens", "images", "patch_embed", "norm1", "norm2", "norm", "norm.in", "norm.out", "pooled"),
            *("block.in", "block", "block.out", "conv.in", "conv.out", "shortcut1", "shortcut2", "ls1", "ls2"),
            *("attn", "attn.in", "attn.out", "attn.stream", "attn.normed", "attn.residual", "attn.keys"),
            *("attn.tokens", "attn.qkv", "attn.queries", "mlp", "mlp.in", "mlp.out", "mlp.stream", "mlp.normed"),
            *("mlp.residual", "pixels"),
            *LINEAR_SITES.values(),
        ),
        UNKNOWN,
    )

    def why_not(self, model: nn.Module) -> str | None:
        """Whether it can be followed from its images to one head."""
        if any(not hasattr(model, name) for name in _NEEDED):
            return ""
        if self._head(model) is None:
            return "other than one head"
        if len(list(model.named_parameters(remove_duplicate=False))) > len(list(model.parameters())):
            return "weights that several layers share"
        try:
            self._followed(model)
        except Exception as error:
            return f"a forward pass that cannot be followed ({' '.join(str(error).split())[:200]})"
        return None

    def head_place(self, model: nn.Module) -> str:
        """Where timm's `get_classifier` has it."""
        return self._head(model) or ""

    def reset_head(self, model: nn.Module, num_classes: int) -> None:
        """As for the others, where the head is one layer; timm's own start where it is more."""
        _timm(model).reset_classifier(num_classes)
        own = dict(self.head(model).named_parameters(recurse=False))
        if "weight" in own:
            nn.init.trunc_normal_(own["weight"], std=0.02)
        if "bias" in own:
            nn.init.zeros_(own["bias"])

    def resize(self, model: nn.Module, size: int) -> bool:
        """Write the size on the model, if it takes images of that size."""
        try:
            vars(model)["followed"] = follow(model, (size, size))
        except Exception:
            return False
        return True

    def block_paths(self, model: nn.Module) -> Sequence[str]:
        """Those that `follow` has found."""
        return self._followed(model).blocks

    def width(self, model: nn.Module) -> int:
        """timm's `num_features`."""
        width: int = _timm(model).num_features
        return width

    def prefix_tokens(self, model: nn.Module) -> int:
        """Unknown: tokens are a column of a map."""
        return 0

    def patch(self, model: nn.Module) -> tuple[int, int]:
        """Of the first block."""
        return self.stages(model)[0].patch

    def image_size(self, model: nn.Module) -> tuple[int, int]:
        """That which `resize` has set, or that of the patch embedding, or of the pretrained weights."""
        known: Followed | None = vars(model).get("followed")
        if known:
            return known.size
        made = (getattr(module, "img_size", None) for module in model.modules())
        given = next((size for size in made if isinstance(size, tuple) and len(size) == 2), None)
        cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
        height, width = given or cfg.get("input_size", (3, 224, 224))[1:]
        return height, width

    def grid(self, model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
        """What leaves the first block."""
        _, rows, columns = (self._followed(model) if size == self.image_size(model) else follow(model, size)).maps[0]
        return rows, columns

    def stages(self, model: nn.Module) -> Sequence[Stage]:
        """Blocks in a row that give maps of the same size."""
        found, (height, width) = self._followed(model), self.image_size(model)
        grouped = [(len(list(same)), left) for left, same in groupby(found.maps)]
        return [
            Stage(depth, channels, _stride((height, width), (rows, columns)), (rows, columns))
            for depth, (channels, rows, columns) in grouped
        ]

    def layer_names(self, model: nn.Module, path: str, place: str, block: int | None) -> tuple[str, ...]:
        """Linear layers in blocks are called after their place, if methods can act on them."""
        module = model.get_submodule(path)
        named = block is not None and _computes_its_weight(module) and path in self._followed(model).called
        return (place.replace(".", "_"),) if named else ()

    def is_norm(self, path: str, module: nn.Module) -> bool:
        """By the name of its class, as timm has norms of many kinds."""
        named = isinstance(module, BATCH_NORMS) or "norm" in type(module).__name__.lower()
        return named and all(p.ndim == 1 for p in module.parameters(recurse=False))

    def is_linear(self, module: nn.Module) -> bool:
        """Dense 1 x 1 convolutions are, too."""
        return super().is_linear(module) or is_dense(module)

    def site(self, model: nn.Module, name: str, block: int | None = None) -> Site:
        """Where images enter; methods ask for no other."""
        if name != "images":
            return super().site(model, name, block)
        return Site(name, model.get_submodule(self._followed(model).first), "in", 3, "NCHW")

    def layer_layout(self, module: nn.Module) -> Layout:
        """Convolutions and norms of maps work on (B, C, H, W)."""
        flat = isinstance(module, nn.Linear | nn.LayerNorm) and not type(module).__name__.endswith("2d")
        return "NLC" if flat else "NCHW"

    def exposed(self, model: nn.Module) -> Iterator[Handle]:
        """Whether the model runs in parts is found out while it is bare."""
        yield from super().exposed(model)
        self.why_whole(model)

    def lacking(self, model: nn.Module) -> Mapping[str, str]:
        """With what keeps a model out of the family that its class is of."""
        others = (get_family(name) for name in FAMILIES)
        why = next(filter(None, (other.why_not(model) for other in others if not other.fallback)), None)
        return self.lacks if why is None else dict.fromkeys(self.lacks, f"it has {why}; {UNKNOWN}")

    def gap(self, model: nn.Module) -> str | None:
        """What `follow` has found."""
        return self._followed(model).gap

    def why_whole(self, model: nn.Module) -> str | None:
        """What `follow` has found, or that the parts compute something else: asked once, and kept on the model."""
        known = vars(model)
        if "why_whole" not in known:
            found = self._followed(model).gap
            like = next(model.parameters())
            known["why_whole"] = found or (None if like.is_meta else _difference(self, model, like))
        why: str | None = known["why_whole"]
        return why

    def step(self, model: nn.Module, index: int, x: Tensor) -> Tensor:
        """What stands behind the block before, and the block."""
        found = self._followed(model)
        between = found.behind[index - 1] if index else ()
        return _through(model, (*between, found.blocks[index]), x)

    def leave(self, model: nn.Module, x: Tensor) -> Tensor:
        """What stands behind the last block, and timm's `forward_head`."""
        logits: Tensor = _timm(model).forward_head(self.run_behind(model, x))
        return logits

    def run_behind(self, model: nn.Module, x: Tensor) -> Tensor:
        """What left the last block to what enters timm's `forward_head`.

        Args:
            model: The model.
            x: What left the last block.
        """
        return _through(model, self._followed(model).behind[-1], x)

    def _followed(self, model: nn.Module) -> Followed:
        known = vars(model)
        if "followed" not in known:
            known["followed"] = follow(model, self.image_size(model))
        found: Followed = known["followed"]
        return found

    def _head(self, model: nn.Module) -> str | None:
        head = _timm(model).get_classifier()
        return next((path for path, module in model.named_modules() if path and module is head), None)


def _timm(model: nn.Module) -> Any:
    return model


def _computes_its_weight(layer: nn.Module) -> bool:
    """Whether a layer is a linear one, or a dense 1 x 1 convolution, with a weight of its own that it uses as it is."""
    plain = type(layer).forward in (nn.Linear.forward, nn.Conv2d.forward)
    own = "weight" in dict(layer.named_parameters(recurse=False))
    return plain and own and (isinstance(layer, nn.Linear) or is_dense(layer))


def _stride(size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """Pixels that a place of a map stands for; of tokens it is not known."""
    (height, width), (rows, columns) = size, grid
    return (round(height / rows), round(width / columns)) if columns > 1 else (1, 1)


def _through(model: nn.Module, paths: Sequence[str], x: Tensor) -> Tensor:
    for path in paths:
        x = model.get_submodule(path)(x)
    return x


@torch.no_grad()
def _difference(family: Generic, model: nn.Module, like: Tensor) -> str | None:
    """Why a model must not run in parts although it seems to be a chain, by two images of noise."""
    modes = [(module, module.training) for module in model.modules()]
    images = torch.randn(2, 3, *family.image_size(model), generator=torch.Generator().manual_seed(0)).to(like)
    try:
        model.eval()
        x = family.enter(model, images)
        for index in range(len(family.block_paths(model))):
            x = family.step(model, index, x)
        if not torch.equal(family.run_behind(model, x), _timm(model).forward_features(images)):
            return "its blocks compute something else when they run one behind the other"
        model.train()
        for norm in batch_norms(model):
            norm.training = False
        draws = Draws(like.device)
        before = draws.states
        with draws:
            model(images)
        still = all(map(torch.equal, before, draws.states))
        return None if still else "it draws random numbers in training"
    finally:
        for module, training in modes:
            module.training = training
