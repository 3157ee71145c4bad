"""What a method is, and the pieces that methods share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Protocol, TypeAlias

from torch import Tensor, nn

from petlas.petl.backbone import shape_of
from petlas.petl.design import DesignError, Option, Placement
from petlas.petl.shape import BackboneShape

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Normalised images (B, 3, H, W) and labels (B,)."""


class Handle(Protocol):
    """Something attached to a backbone that can be taken off again, such as a hook."""

    def remove(self) -> None:
        """Take it off."""


class Instead:
    """Another `forward` in place of a layer's own; the layer's hooks see nothing of it."""

    def __init__(self, layer: nn.Module, forward: Callable[..., Tensor]) -> None:
        self._layer = layer
        vars(layer)["forward"] = forward

    def remove(self) -> None:
        """Give the layer its own back."""
        del vars(self._layer)["forward"]


class Tree(nn.Module):
    """Modules and parameters under dotted paths, so that a state dict explains itself."""

    def add(self, path: str, item: nn.Module | nn.Parameter) -> None:
        """Put `item` at `path`, making the containers in between."""
        *parents, name = path.split(".")
        node: nn.Module = self
        for parent in parents:
            if parent not in node._modules:
                node.add_module(parent, nn.Module())
            node = node.get_submodule(parent)
        if isinstance(item, nn.Parameter):
            node.register_parameter(name, item)
        else:
            node.add_module(name, item)


class Adopted(Tree):
    """Trained copies of a model's own parameters, put in their places; removing them puts the originals back."""

    def __init__(self, paths: Iterable[str]) -> None:
        super().__init__()
        self.paths = tuple(paths)
        self._originals: dict[str, tuple[nn.Module, nn.Parameter]] = {}

    def adopt(self, model: nn.Module, paths: Iterable[str] | None = None) -> None:
        """Put the copies at `paths`, by default at all, into the model; a copy is made when its place is first taken.

        Raises:
            DesignError: When another method tunes one of them already.
        """
        paths = self.paths if paths is None else tuple(paths)
        for path in paths:
            if model.get_parameter(path).requires_grad:
                raise DesignError(f"a parameter can be tuned by one method only, and {path} is tuned twice")
        known = {path for path, _ in self.named_parameters()}
        for path in paths:
            parent, _, name = path.rpartition(".")
            owner, original = model.get_submodule(parent), model.get_parameter(path)
            if path not in known:
                self.add(path, nn.Parameter(original.detach().clone()))
            setattr(owner, name, self.get_parameter(path))
            self._originals[path] = (owner, original)

    def keep(self) -> None:
        """Make the tuned values the backbone's own: `remove` then leaves them in place."""
        self._originals.clear()

    def remove(self) -> None:
        """Put back the originals, on the device where the model now is."""
        for path, (owner, original) in self._originals.items():
            original.data = original.data.to(self.get_parameter(path))
            setattr(owner, path.rpartition(".")[2], original)
        self._originals.clear()


class Elastic(nn.Module):
    """A module with a size that can be narrowed, so that a supernet's module serves every smaller size.

    `axes` names the parameters that grow with the size, and the axis or axes along which they do. Narrowed to `k`, the
    module computes what a fresh module of size `k` with the first `k` slices of those parameters computes.

    A sum over k of K terms is smaller than the sum over all, so in a supernet narrow sizes would start behind. With
    `balanced` set, the parameter named by `summed` is multiplied by sqrt(K / k) when it is narrowed, or sliced.
    """

    axes: ClassVar[Mapping[str, int | tuple[int, ...]]] = {}
    summed: ClassVar[str | None] = None
    """The parameter whose slices are terms of a sum."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.active = size
        self.balanced = False

    def narrow(self, size: int) -> None:
        """Use only the first `size` slices.

        Raises:
            DesignError: When the size is not between 1 and the full size.
        """
        if not 1 <= size <= self.size:
            raise DesignError(f"a module of size {self.size} can be narrowed to 1..{self.size}, got size={size}")
        self.active = size

    def part(self, name: str) -> Tensor:
        """The active slices of the parameter `name`."""
        parameter: Tensor = getattr(self, name)
        return parameter if self.active == self.size else self._slice(name, parameter, self.active)

    def sliced_state(self, size: int) -> dict[str, Tensor]:
        """The state of a fresh module of that size that inherits this module's weights."""
        return {name: self._slice(name, value, size).clone() for name, value in self.state_dict().items()}

    def _slice(self, name: str, value: Tensor, size: int) -> Tensor:
        axes = self.axes.get(name, ())
        part = value
        for axis in (axes,) if isinstance(axes, int) else axes:
            part = part.narrow(axis, 0, size)
        return part * math.sqrt(self.size / size) if self.balanced and name == self.summed else part


class Method(ABC):
    """A kind of insertion into a vision transformer.

    A subclass says what it is in its class attributes, and implements `count`, `build` and `attach`; `merge` too if
    it can be folded into the backbone's weights. A method keeps no state: modules do.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    sites: ClassVar[tuple[str, ...]]
    size_means: ClassVar[str | None] = None
    """What `size` is, such as "rank"; None for a method without a size."""
    default_size: ClassVar[int | None] = None
    zero_start: ClassVar[bool]
    """Whether the model computes what the backbone computed right after `apply`."""
    mergeable: ClassVar[bool]
    in_blocks: ClassVar[bool] = True
    """Whether it can be placed at single blocks."""
    in_backbone: ClassVar[bool] = False
    """Whether it can be placed over the whole backbone (`block: null`)."""
    combines: ClassVar[bool] = True
    """Whether other methods can stand beside it in a design."""
    replaces: ClassVar[str | None] = None
    """What of the backbone's it puts its own in place of, such as "the head's input": one method of a design may."""
    through_backbone: ClassVar[bool] = True
    """Whether its gradients pass through the blocks; else the blocks run without, and their outputs can be cached."""
    fits_task: ClassVar[bool] = False
    """Whether `prepare` looks at training images before training, to choose channels or entries."""
    blockwise: ClassVar[bool] = True
    """Whether blocks hand on nothing but the stream, so that designs can share their first blocks: see `enters`."""
    known_strong: ClassVar[bool] = False
    """Whether its usual design is a baseline that every search tries first."""
    options: ClassVar[Mapping[str, Option | None]] = {}
    """Names and defaults of the options that a placement may set."""

    @abstractmethod
    def count(self, shape: BackboneShape, placements: Sequence[Placement]) -> int:
        """Trainable parameters of all its placements in one design, by formula, head excluded."""

    @abstractmethod
    def build(self, shape: BackboneShape, placements: Sequence[Placement]) -> nn.Module:
        """The module that holds its parameters for all its placements in one design."""

    @abstractmethod
    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placement]) -> Iterator[Handle]:
        """Connect the module to the backbone; each handle undoes one connection.

        In a supernet `placements` is a part of those that the module was built for: the others are absent.
        """

    def paths(self, shape: BackboneShape, placements: Sequence[Placement]) -> list[str]:
        """The paths of the backbone's own parameters that it trains: only one method of a design may."""
        return []

    def enters(self, placements: Sequence[Placement], block: int) -> Hashable:
        """What the stream that enters a block depends on, of the placements of a method that is `blockwise`.

        Designs for which it is equal share what the blocks before compute; empty when there is none.
        """
        return tuple(p for p in placements if p.block is None or p.block < block)

    def head_inputs(self, shape: BackboneShape, placements: Sequence[Placement]) -> int | None:
        """Channels of the head's input, where the method replaces it by one of another width than the backbone's."""
        return None

    def narrow(self, module: nn.Module, placements: Sequence[Placement]) -> None:
        """Narrow the module, built for larger placements, to the sizes of these ones."""
        for placement in placements:
            for part in module.get_submodule(placement.path).modules():
                if isinstance(part, Elastic) and placement.size is not None:
                    part.narrow(placement.size)

    def sliced(self, module: nn.Module, placements: Sequence[Placement]) -> dict[str, Tensor]:
        """The state of a fresh module for these placements that inherits from one built for larger or more ones."""
        state: dict[str, Tensor] = {}
        for placement in placements:
            for path, part in module.get_submodule(placement.path).named_modules(prefix=placement.path):
                if isinstance(part, Elastic):
                    assert placement.size is not None
                    values = part.sliced_state(placement.size)
                else:
                    own = (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
                    values = {key: value.detach().clone() for key, value in own}
                state |= {f"{path}.{key}" if path else key: value for key, value in values.items()}
        return state

    def merge(self, model: nn.Module, module: nn.Module, placements: Sequence[Placement]) -> None:
        """Fold the module into the backbone's weights, exactly."""
        raise DesignError(f"{self.name} cannot be merged: {self.summary}")

    def prepare(
        self, model: nn.Module, module: nn.Module, placements: Sequence[Placement], batches: Iterable[Batch]
    ) -> None:
        """Fit what is chosen once, before training, to the task; a method with `fits_task` has it.

        Args:
            model: The backbone with the design, in evaluation mode.
            module: The method's module.
            placements: The method's placements.
            batches: Training images (B, 3, H, W), normalised, with labels (B,); can be gone through several times.
        """
        raise NotImplementedError(self.name)

    def baseline(self, shape: BackboneShape, size: int | None) -> tuple[Placement, ...]:
        """The usual design of this method alone: over the whole backbone if it can be, else at every block."""
        if self.in_backbone:
            return (Placement(self.name, None, size),)
        return tuple(Placement(self.name, block, size) for block in range(shape.depth))

    def sites_of(self, placement: Placement) -> tuple[str, ...]:
        """The sites that a placement acts on: all of the method's, where no option chooses among them."""
        return self.sites

    def option(self, placement: Placement, name: str) -> Option | None:
        """The value of an option: the placement's, or the default."""
        return dict(placement.options).get(name, self.options[name])

    def check(self, shape: BackboneShape, placement: Placement) -> None:
        """Refuse a placement that this method cannot take on this backbone.

        Raises:
            DesignError: Naming the rule, the value and what to do.
        """
        if placement.block is None and not self.in_backbone:
            raise DesignError(f"{self.name} is placed at blocks, got no block; give block: 0..{shape.depth - 1}")
        if placement.block is not None and not self.in_blocks:
            raise DesignError(f"{self.name} covers the whole backbone, got block={placement.block}; leave block out")
        if placement.block is not None and placement.block >= shape.depth:
            raise DesignError(f"block must be in 0..{shape.depth - 1} for {shape.name}, got block={placement.block}")
        if self.size_means is None and placement.size is not None:
            raise DesignError(f"{self.name} has no size, got size={placement.size}; leave it out")
        if self.size_means is not None and placement.size is None:
            raise DesignError(f"{self.name} needs a size ({self.size_means}), for example size: {self.default_size}")
        for key, value in placement.options:
            if key not in self.options:
                known = ", ".join(self.options) or "none"
                raise DesignError(f"{self.name} has no option {key!r} (value {value!r}); its options: {known}")
            kind = type(self.options[key])
            named = kind in (bool, str)
            fits = isinstance(value, kind) if named else isinstance(value, int | float) and not isinstance(value, bool)
            if not fits:
                wanted = kind.__name__ if named else "number"
                raise DesignError(f"option {key} of {self.name} must be a {wanted}, got {key}={value!r}")
            if key in ("dropout", "drop_path") and not 0 <= float(value) < 1:
                raise DesignError(f"option {key} of {self.name} must be in [0, 1), got {key}={value!r}")


class BlockMethod(Method):
    """A method whose placements are independent of each other, each with one module at one block."""

    @abstractmethod
    def count_block(self, shape: BackboneShape, placement: Placement) -> int:
        """Trainable parameters of one placement."""

    @abstractmethod
    def build_block(self, shape: BackboneShape, placement: Placement) -> nn.Module:
        """The module of one placement."""

    @abstractmethod
    def attach_block(self, block: nn.Module, module: nn.Module) -> Iterator[Handle]:
        """Connect the module of one placement to its block."""

    def merge_block(self, block: nn.Module, module: nn.Module) -> None:
        """Fold the module of one placement into its block's weights."""
        raise NotImplementedError

    def count(self, shape: BackboneShape, placements: Sequence[Placement]) -> int:
        """The sum over the placements."""
        return sum(self.count_block(shape, placement) for placement in placements)

    def build(self, shape: BackboneShape, placements: Sequence[Placement]) -> Tree:
        """A tree with one module under `blocks.N` for each placement."""
        tree = Tree()
        for placement in placements:
            tree.add(f"blocks.{placement.block}", self.build_block(shape, placement))
        return tree

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placement]) -> Iterator[Handle]:
        """Connect each module to its block."""
        for placement in placements:
            path = f"blocks.{placement.block}"
            yield from self.attach_block(model.get_submodule(path), module.get_submodule(path))

    def merge(self, model: nn.Module, module: nn.Module, placements: Sequence[Placement]) -> None:
        """Fold each module into its block."""
        if not self.mergeable:
            super().merge(model, module, placements)
        for placement in placements:
            path = f"blocks.{placement.block}"
            self.merge_block(model.get_submodule(path), module.get_submodule(path))


class SubsetMethod(Method):
    """A method that inserts nothing and tunes a subset of the backbone's own parameters."""

    zero_start = True
    mergeable = True
    in_backbone = True

    @abstractmethod
    def paths(self, shape: BackboneShape, placements: Sequence[Placement]) -> list[str]:
        """The paths of the parameters that are tuned."""

    def build(self, shape: BackboneShape, placements: Sequence[Placement]) -> Adopted:
        """A holder that `attach` fills with the backbone's parameters."""
        return Adopted(self.paths(shape, placements))

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placement]) -> Iterator[Handle]:
        """Put trained copies in the parameters' places; the handle puts the originals back."""
        assert isinstance(module, Adopted)
        module.adopt(model, self.paths(shape_of(model), placements))
        yield module

    def narrow(self, module: nn.Module, placements: Sequence[Placement]) -> None:
        """Nothing: `attach` takes the parameters of its placements only."""

    def merge(self, model: nn.Module, module: nn.Module, placements: Sequence[Placement]) -> None:
        """Keep the tuned values: they are the backbone's weights."""
        assert isinstance(module, Adopted)
        module.keep()
