"""What a family of backbones is: it knows its blocks, its sites, its head, and how to run in parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from petlas.errors import UserError
from petlas.petl.backbones.site import Layout, Side, Site
from petlas.petl.parts.handles import Handle
from petlas.petl.shape import BackboneShape, BlockShape, Layer, Scale

LINEAR_SITES = {"q": "attn.q", "k": "attn.k", "v": "attn.v", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
"""The linear layers that methods ask for by name, whatever a family calls them, and their sites."""


class BackboneError(UserError):
    """A backbone that cannot be made or loaded: the message says why and what to do."""


@dataclass(frozen=True)
class InputConfig:
    """What a backbone expects of its input images.

    Args:
        size: Side in pixels.
        mean: Of each channel, that it was pretrained with.
        std: Of each channel, that it was pretrained with.
        interpolation: How images are resized.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str


@dataclass(frozen=True)
class BlockSites:
    """One block of a model with its sites.

    Args:
        family: The model's.
        model: The model.
        module: The block.
        shape: The block's.
    """

    family: Family
    model: nn.Module
    module: nn.Module
    shape: BlockShape

    def site(self, name: str) -> Site:
        """The site of that name in this block."""
        return self.family.site(self.model, name, self.shape.index)

    def layer(self, layer: Layer) -> nn.Module:
        """The module of one of the block's layers."""
        return self.model.get_submodule(layer.path)

    def behind(self, layer: Layer) -> Site:
        """The output of one of the block's layers, with its input at hand."""
        return self.family.layer_site(self.model, layer)


class _Entered(Exception):  # no error: it ends a forward pass where the blocks begin
    """Carries what enters the first block out of a forward pass."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x


class Family(ABC):
    """A kind of backbone. Methods, scoring and saving ask it, and know no path of a module.

    A subclass declares where its sites are, and implements what is abstract here. A site that it does not list is one
    that it does not have: methods that need it are refused.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """What its models are, for messages: "a plain pre-norm timm VisionTransformer"."""
    head_path: ClassVar[str] = "head"
    """Where the classifier stands in a model."""
    apart: ClassVar[tuple[str, ...]] = ()
    """Beginnings of paths of modules that are no layers of the backbone, besides the head."""
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """What the outputs of layers are called, in equal shares, by the layers' place in a block, or path outside."""
    scales: ClassVar[Mapping[str, str]] = {}
    """Learned scales by their place in a block, and the name of the linear layer whose outputs each one scales."""
    in_block: ClassVar[Mapping[str, tuple[str, Side]]] = {}
    """The sites of each block: the module's path in the block, and which side of it."""
    in_model: ClassVar[Mapping[str, tuple[str, Side]]] = {}
    """The sites of the model outside the blocks: the module's path, and which side of it."""
    other_sites: ClassVar[frozenset[str]] = frozenset()
    """Sites that are no single place: whole layers, or such as `more_keys` and `ask` serve."""
    recomputed: ClassVar[frozenset[str]] = frozenset()
    """Parameters that `load_backbone` computes anew for an image size: their digits differ from machine to machine."""

    other_heads: ClassVar[tuple[str, ...]] = ()
    """Beginnings of names that stand for classifiers in files of weights, besides the head."""

    @abstractmethod
    def why_not(self, model: nn.Module) -> str | None:
        """Why a model is none of this family, or None where it is one; empty where that goes without saying."""

    @abstractmethod
    def block_paths(self, model: nn.Module) -> Sequence[str]:
        """Where the blocks stand in a model, in the order of the forward pass."""

    @abstractmethod
    def width(self, model: nn.Module) -> int:
        """Channels of a token."""

    @abstractmethod
    def prefix_tokens(self, model: nn.Module) -> int:
        """Class and register tokens in front of the patches."""

    @abstractmethod
    def patch(self, model: nn.Module) -> tuple[int, int]:
        """Height and width of a patch in pixels."""

    @abstractmethod
    def image_size(self, model: nn.Module) -> tuple[int, int]:
        """Height and width in pixels of the images that a model was made for."""

    @abstractmethod
    def grid(self, model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches of images of that size.

        Args:
            model: The model.
            size: Height and width in pixels.
        """

    @abstractmethod
    def features(self, model: nn.Module, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to what the head reads (B, C).

        Args:
            model: The model.
            images: The images.
        """

    @abstractmethod
    def leave(self, model: nn.Module, x: Tensor) -> Tensor:
        """What leaves the last block (B, N, D) to the logits (B, K), hooks included.

        Args:
            model: The model.
            x: What left the last block.
        """

    @abstractmethod
    def reset_head(self, model: nn.Module, num_classes: int) -> None:
        """Give the model a new head.

        Args:
            model: The model.
            num_classes: Its outputs; 0 for no head.
        """

    def enter(self, model: nn.Module, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to what enters the first block (B, N, D), hooks up to there included.

        Args:
            model: The model.
            images: The images.
        """
        handle = self.blocks(model)[0].register_forward_pre_hook(_stop, prepend=True)
        try:
            model(images)
        except _Entered as entered:
            return entered.x
        finally:
            handle.remove()
        raise RuntimeError("the forward pass did not reach the first block")

    def blocks(self, model: nn.Module) -> Sequence[nn.Module]:
        """The blocks, in the order of the forward pass."""
        return [model.get_submodule(path) for path in self.block_paths(model)]

    def head(self, model: nn.Module) -> nn.Module:
        """The classifier; `nn.Identity` where there is none."""
        return model.get_submodule(self.head_path)

    def outputs(self, model: nn.Module) -> int:
        """How many outputs the head has; 0 where there is no head."""
        head = self.head(model)
        if isinstance(head, nn.Identity):
            return 0
        outputs: int = head.out_features if isinstance(head, nn.Linear) else getattr(model, "num_classes", 0)
        return outputs

    def is_norm(self, path: str, module: nn.Module) -> bool:
        """Whether a module with a weight is a norm layer.

        Args:
            path: Of the module in the model.
            module: The module.
        """
        return isinstance(module, nn.LayerNorm | nn.GroupNorm)

    def read_other(self, model: nn.Module, path: Path) -> bool:
        """Load a file in a format of the family's own, and say whether it is one.

        Args:
            model: The model.
            path: The file.

        Raises:
            BackboneError: When it holds the weights of another architecture.
        """
        return False

    def converted(self, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights from a file under the model's own names, position embeddings interpolated to its grid.

        Args:
            model: The model.
            state: What the file holds.

        Raises:
            BackboneError: When position embeddings are those of no grid.
        """
        return state

    def drop_path(self, block: BlockSites, branch: str) -> nn.Module:
        """What drops a branch, `attn` or `mlp`, of a block for whole images in training.

        Args:
            block: The block.
            branch: The branch.
        """
        return nn.Identity()

    def undecayed(self, model: nn.Module) -> set[str]:
        """Names of the model's own parameters of two and more axes that are no weights: tokens, position embeddings."""
        return set()

    def more_keys(self, block: BlockSites, source: Callable[[], tuple[Tensor, Tensor]]) -> Iterator[Handle]:
        """Let every token of a block attend to further keys and values as well: the site `attn.keys`.

        Args:
            block: The block.
            source: Gives keys (p, A) and values (p, A).
        """
        raise NotImplementedError

    def keys_and_values(self, block: BlockSites, see: Callable[[Tensor], None]) -> Iterator[Handle]:
        """Let `see` have the keys and values of a block, in a form that `ask` takes: the site `attn.queries`.

        Args:
            block: The block.
            see: Takes them.
        """
        raise NotImplementedError

    def ask(self, block: nn.Module, tokens: Tensor, known: Tensor) -> Tensor:
        """What tokens (B, T, D) find among a block's keys and values, through the whole block (B, T, D).

        The layers are run without their hooks: what others insert acts on the stream, its keys and its values.

        Args:
            block: The block's module.
            tokens: What asks.
            known: What `keys_and_values` gave.
        """
        raise NotImplementedError

    @property
    def sites(self) -> frozenset[str]:
        """The names of all sites."""
        named = {LINEAR_SITES[name] for names in self.names.values() for name in names if name in LINEAR_SITES}
        return frozenset({*self.in_block, *self.in_model, *self.other_sites, *named})

    def site(self, model: nn.Module, name: str, block: int | None = None) -> Site:
        """A site of a model.

        Args:
            model: The model.
            name: Of the site.
            block: The block's index, for a site in a block.
        """
        if block is None:
            path, side = self.in_model[name]
        else:
            place, side = self.in_block[name]
            path = ".".join(filter(None, (self.block_paths(model)[block], place)))
        return Site(name, model.get_submodule(path), side, self.width(model))

    def layer_site(self, model: nn.Module, layer: Layer) -> Site:
        """The output of a layer, with its input at hand.

        Args:
            model: The model.
            layer: The layer.
        """
        layout: Layout = "NCHW" if layer.kind == "conv" else "NLC"
        return Site(layer.place, model.get_submodule(layer.path), "out", layer.outputs, layout)

    def block_sites(self, model: nn.Module) -> list[BlockSites]:
        """Every block of a model with its sites."""
        blocks = zip(self.blocks(model), self.shape(model).blocks, strict=True)
        return [BlockSites(self, model, module, shape) for module, shape in blocks]

    def shape(self, model: nn.Module) -> BackboneShape:
        """The sizes of a model, for formulas; whatever `apply` inserted and the head are left out."""
        known: BackboneShape | None = getattr(getattr(model, "petl", None), "shape", None)
        return known or self._shape(model)  # a design does not change it

    def _shape(self, model: nn.Module) -> BackboneShape:
        paths = tuple(self.block_paths(model))
        apart = ("petl.", self.head_path, *self.apart)
        layers = [
            layer
            for path, module in model.named_modules()
            if not path.startswith(apart) and (layer := self._layer(paths, path, module)) is not None
        ]
        found = [
            Scale(f"{path}.{place}", place, index, len(model.get_parameter(f"{path}.{place}")), behind)
            for index, path in enumerate(paths)
            for place, behind in self.scales.items()
            if _has(model, f"{path}.{place}")
        ]
        return BackboneShape(
            name=backbone_name(model),
            width=self.width(model),
            depth=len(paths),
            patch=self.patch(model),
            grid=self.grid(model, self.image_size(model)),
            prefix_tokens=self.prefix_tokens(model),
            layers=tuple(layers),
            params=sum(
                p.numel()
                for path, p in model.named_parameters()
                if not path.startswith(("petl.", f"{self.head_path}."))
            ),
            scales=tuple(found),
            block_paths=paths,
            sites=self.sites,
        )

    def _layer(self, blocks: Sequence[str], path: str, module: nn.Module) -> Layer | None:
        index = next((i for i, block in enumerate(blocks) if path.startswith(f"{block}.")), None)
        place = path if index is None else path.removeprefix(f"{blocks[index]}.")
        where: dict[str, Any] = {"block": index, "place": place, "names": tuple(self.names.get(place, ()))}
        bias = getattr(module, "bias", None) is not None
        if isinstance(module, nn.Linear):
            return Layer(path, "linear", module.in_features, module.out_features, bias, **where)
        if isinstance(module, nn.Conv2d):
            return Layer(path, "conv", module.in_channels, module.out_channels, bias, **where)
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and self.is_norm(path, module):
            return Layer(path, "norm", len(weight), len(weight), bias, **where)
        return None


def _stop(block: nn.Module, args: tuple[Any, ...]) -> NoReturn:
    raise _Entered(args[0])


def _has(model: nn.Module, path: str) -> bool:
    try:
        model.get_parameter(path)
    except AttributeError:
        return False
    return True


def backbone_name(model: nn.Module) -> str:
    """The timm name of a model, with its weight tag if it has one."""
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    name, tag = cfg.get("architecture") or type(model).__name__, cfg.get("tag")
    return f"{name}.{tag}" if tag else str(name)
