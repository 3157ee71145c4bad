"""The parts of a backbone, as its family tells them apart: blocks, stages, layers, and their sizes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from petlas.petl.parts.handles import Side
from petlas.petl.shape import LINEAR_SITES, BackboneShape, Layer, Other, Scale, Stage


class Anatomy(ABC):
    """Which parts the models of a family have, and what they are called. A subclass declares and implements it."""

    head_path: ClassVar[str] = "head"
    """Where the classifier stands in a model."""
    apart: ClassVar[tuple[str, ...]] = ()
    """Beginnings of paths of modules that are no layers of the backbone, besides the head."""
    aside: ClassVar[tuple[str, ...]] = ()
    """Beginnings of places in blocks of modules through which no features flow, such as those that make positions."""
    names: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """What the outputs of layers are called, in equal shares, by the layers' place in a block, or path outside."""
    scales: ClassVar[Mapping[str, str]] = {}
    """Learned scales by their place in a block, and the name of the linear layer whose outputs each one scales."""
    in_block: ClassVar[Mapping[str, tuple[str, Side]]] = {}
    """The sites of each block: the module's path in the block, and which side of it."""
    in_model: ClassVar[Mapping[str, tuple[str, Side]]] = {}
    """The sites of the model outside the blocks: the module's path, and which side of it."""
    branches: ClassVar[tuple[str, ...]] = ("attn", "mlp")
    """The residual branches of each block: what stands around a branch is named `attn.…` or `mlp.…`."""
    lacks: ClassVar[Mapping[str, str]] = {}
    """Why it has not what others have, by the names of the sites: for messages."""
    biases: ClassVar[tuple[str, ...]] = ()
    """Ends of the paths of parameters in blocks that are biases, but not of a layer by the name of `bias`."""
    other_sites: ClassVar[frozenset[str]] = frozenset()
    """Sites that are no single place: whole layers, or such as `more_keys` and `ask` serve."""

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
        """Height and width in pixels of what a token stands for that enters the first block."""

    @abstractmethod
    def image_size(self, model: nn.Module) -> tuple[int, int]:
        """Height and width in pixels of the images that a model was made for."""

    @abstractmethod
    def grid(self, model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tokens that enter the first block, of images of that size.

        Args:
            model: The model.
            size: Height and width in pixels.
        """

    def head_place(self, model: nn.Module) -> str:
        """Where the classifier stands in a model.

        Args:
            model: The model.
        """
        return self.head_path

    def layer_names(self, model: nn.Module, path: str, place: str, block: int | None) -> tuple[str, ...]:
        """What the outputs of a layer are called, in equal shares.

        Args:
            model: The model.
            path: Of the layer.
            place: Its path in its block, or the whole path outside.
            block: The index of its block.
        """
        return tuple(self.names.get(place, ()))

    def lacking(self, model: nn.Module) -> Mapping[str, str]:
        """Why a model has not what others have, by the names of the sites.

        Args:
            model: The model.
        """
        return self.lacks

    def gap(self, model: nn.Module) -> str | None:
        """Why a model cannot run in parts, by its structure; None where it can.

        Args:
            model: The model.
        """
        return None

    def stages(self, model: nn.Module) -> Sequence[Stage]:
        """The blocks in groups of one width and one grid; a single one where a family says nothing else."""
        grid = self.grid(model, self.image_size(model))
        return (Stage(len(self.block_paths(model)), self.width(model), self.patch(model), grid),)

    def is_norm(self, path: str, module: nn.Module) -> bool:
        """Whether a module with a weight is a norm layer.

        Args:
            path: Of the module in the model.
            module: The module.
        """
        return isinstance(module, nn.LayerNorm | nn.GroupNorm)

    def is_linear(self, module: nn.Module) -> bool:
        """Whether a layer is a linear one, for methods that update its weight as a matrix (outputs, inputs).

        Args:
            module: The layer.
        """
        return isinstance(module, nn.Linear)

    def is_shadowed(self, model: nn.Module, path: str) -> bool:
        """Whether the weight of a linear layer is used without calling the layer.

        Args:
            model: The model.
            path: Of the layer.
        """
        return False

    @property
    def sites(self) -> frozenset[str]:
        """The names of all sites."""
        named = {LINEAR_SITES[name] for names in self.names.values() for name in names if name in LINEAR_SITES}
        return frozenset({*self.in_block, *self.in_model, *self.other_sites, *named})

    def shape(self, model: nn.Module) -> BackboneShape:
        """The sizes of a model, for formulas; whatever `apply` inserted and the head are left out."""
        known: BackboneShape | None = getattr(getattr(model, "petl", None), "shape", None)
        return known or self._measured(model)  # a design does not change it

    def _measured(self, model: nn.Module) -> BackboneShape:
        paths = tuple(self.block_paths(model))
        head = self.head_place(model)
        apart = ("petl.", f"{head}.", *self.apart)
        layers = [
            layer
            for path, module in model.named_modules()
            if not f"{path}.".startswith(apart) and (layer := _layer(self, model, paths, path, module)) is not None
        ]
        found = [
            Scale(f"{path}.{place}", place, index, len(model.get_parameter(f"{path}.{place}")), behind)
            for index, path in enumerate(paths)
            for place, behind in self.scales.items()
            if _has(model, f"{path}.{place}")
        ]
        own = {path: p for path, p in model.named_parameters() if not path.startswith(("petl.", f"{head}."))}
        known = {path for layer in layers for path in layer.parameters} | {scale.path for scale in found}
        others = [
            Other(path, index, p.numel(), path.endswith(self.biases))
            for path, p in own.items()
            if path not in known and (index := _block_of(paths, path)) is not None
        ]
        return BackboneShape(
            name=backbone_name(model),
            stages=tuple(self.stages(model)),
            prefix_tokens=self.prefix_tokens(model),
            layers=tuple(layers),
            params=sum(p.numel() for p in own.values()),
            scales=tuple(found),
            block_paths=paths,
            sites=self.sites,
            others=tuple(others),
            branches=self.branches,
            lacks=self.lacking(model),
            gap=self.gap(model),
            image=self.image_size(model),
        )


def _layer(anatomy: Anatomy, model: nn.Module, blocks: Sequence[str], path: str, module: nn.Module) -> Layer | None:
    index = _block_of(blocks, path)
    place = path if index is None else path.removeprefix(f"{blocks[index]}.")
    where: dict[str, Any] = {"block": index, "place": place, "names": anatomy.layer_names(model, path, place, index)}
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or (index is not None and place.startswith(anatomy.aside)):
        return None
    bias = getattr(module, "bias", None) is not None
    if isinstance(module, nn.Linear | nn.Conv2d):
        linear = anatomy.is_linear(module)
        sides = (weight[0].numel(), len(weight)) if linear else _conv_sides(module)
        where |= {"connections": weight[0].numel(), "shadowed": anatomy.is_shadowed(model, path)}
        where |= {"kernel": module.kernel_size[0]} if isinstance(module, nn.Conv2d) else {}
        return Layer(path, "linear" if linear else "conv", *sides, bias, **where)
    if anatomy.is_norm(path, module):
        return Layer(path, "norm", len(weight), len(weight), bias, **where)
    return None


def _conv_sides(module: nn.Module) -> tuple[int, int]:
    assert isinstance(module, nn.Conv2d)
    return module.in_channels, module.out_channels


def _block_of(blocks: Sequence[str], path: str) -> int | None:
    """The index of the block that a path lies in."""
    return next((i for i, block in enumerate(blocks) if path.startswith(f"{block}.")), None)


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
