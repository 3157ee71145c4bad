"""The contract of a method: what it says of itself, and how it counts, builds, attaches and merges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Generic, TypeAlias

from torch import Tensor, nn

from petlas.petl.design import DesignError, Option, Placement
from petlas.petl.parts.elastic import Elastic
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.placed import OptionsT, Placed, declared, typed_options, usual_number, with_option
from petlas.petl.parts.tuned_copies import TunedCopies
from petlas.petl.shape import BackboneShape

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Normalised images (B, 3, H, W) and their targets: labels (B,), or one of several (B, C)."""

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Logits (B, K) and targets to the mean loss over the batch."""


class Method(ABC, Generic[OptionsT]):
    """A kind of insertion into a backbone.

    A subclass says what it is in its class attributes, and implements `count`, `build` and `attach`; `merge` too if
    it can be folded into the backbone's weights. It asks the family for sites and never for a module's path. A method
    keeps no state: modules do. A module names the parameters of its own that are no weights although they have two
    axes, such as prompts, in an attribute `undecayed`.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    sites: ClassVar[tuple[str, ...]]
    """What it acts on; a family without one of these is refused."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Further sites that it reads or writes at; a family without one of these is refused."""
    any_site: ClassVar[bool] = False
    """Whether it acts on those of its sites that there are, and does without the others."""
    size_means: ClassVar[str | None] = None
    """What `size` is, such as "rank"; None for a method without a size."""
    default_size: ClassVar[int | None] = None
    zero_start: ClassVar[bool]
    """Whether the model computes what the backbone computed right after `apply`."""
    mergeable: ClassVar[bool]
    shifts_keys: ClassVar[bool] = False
    """Whether merging it gives keys a bias, which some backbones have no place for."""
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
    final_norm: ClassVar[bool] = False
    """Whether it acts at the final norm, so that features between blocks cannot be normalised by it."""
    known_strong: ClassVar[bool] = False
    """Whether its usual design is a baseline that every search tries first."""
    option_type: type[OptionsT]
    """The dataclass of its options, each with a default."""

    @abstractmethod
    def count(self, shape: BackboneShape, placements: Sequence[Placed[OptionsT]]) -> int:
        """Trainable parameters of all its placements in one design, by formula, head excluded.

        Args:
            shape: The backbone's.
            placements: The method's placements.
        """

    @abstractmethod
    def build(self, shape: BackboneShape, placements: Sequence[Placed[OptionsT]]) -> nn.Module:
        """The module that holds its parameters for all its placements in one design.

        Args:
            shape: The backbone's.
            placements: The method's placements.
        """

    @abstractmethod
    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[OptionsT]]) -> Iterator[Handle]:
        """Connect the module to the backbone; each handle undoes one connection.

        Args:
            model: The backbone.
            module: What `build` made.
            placements: In a supernet a part of those that the module was built for: the others are absent.
        """

    def paths(self, shape: BackboneShape, placements: Sequence[Placed[OptionsT]]) -> list[str]:
        """The paths of the backbone's own parameters that it trains: only one method of a design may.

        Args:
            shape: The backbone's.
            placements: The method's placements.
        """
        return []

    def enters(self, placements: Sequence[Placement], block: int) -> Hashable:
        """What the stream that enters a block depends on, of the placements of a method that is `blockwise`.

        Designs for which it is equal share what the blocks before compute; empty when there is none.

        Args:
            placements: The method's placements.
            block: The block's index.
        """
        return tuple(p for p in placements if p.block is None or p.block < block)

    def untouched(self, placements: Sequence[Placement], depth: int) -> int:
        """How many leading blocks, with all in front of them, compute what the frozen backbone alone computes.

        Args:
            placements: The method's placements.
            depth: Blocks of the backbone.
        """
        if not self.through_backbone:
            return depth
        if not self.blockwise:
            return 0
        return max((block for block in range(depth + 1) if not self.enters(placements, block)), default=0)

    def looks(self, placements: Sequence[Placement], depth: int) -> frozenset[int]:
        """The streams that it reads in front of what it touches: 0 enters the first block, i leaves the i-th.

        Args:
            placements: The method's placements.
            depth: Blocks of the backbone.
        """
        return frozenset()

    def asks(self, placements: Sequence[Placement]) -> frozenset[int]:
        """The blocks whose keys and values it asks."""
        return frozenset()

    def spread(self, placements: Sequence[Placement], depth: int) -> int:
        """The sizes of placements, summed over the blocks in which they act: what their cost grows with.

        Args:
            placements: Some of the method's placements.
            depth: Blocks of the backbone.
        """
        return sum(placement.size or 0 for placement in placements)

    def strays(self, placements: Sequence[Placement], depth: int) -> bool:
        """Whether what leaves some block holds more tokens than the backbone's own.

        Args:
            placements: The method's placements.
            depth: Blocks of the backbone.
        """
        return False

    def head_inputs(self, shape: BackboneShape, placements: Sequence[Placed[OptionsT]]) -> int | None:
        """Channels of the head's input, where the method replaces it by one of another width than the backbone's.

        Args:
            shape: The backbone's.
            placements: The method's placements.
        """
        return None

    def narrow(self, module: nn.Module, placements: Sequence[Placed[OptionsT]]) -> None:
        """Narrow the module, built for larger placements, to the sizes of these ones.

        Args:
            module: What `build` made.
            placements: The method's placements.
        """
        for placement in placements:
            for part in module.get_submodule(placement.path).modules():
                if isinstance(part, Elastic) and placement.size:
                    part.narrow(placement.size)

    def sliced(self, module: nn.Module, placements: Sequence[Placed[OptionsT]]) -> dict[str, Tensor]:
        """The state of a fresh module for these placements that inherits from one built for larger or more ones.

        Args:
            module: What `build` made.
            placements: The method's placements.
        """
        state: dict[str, Tensor] = {}
        for placement in placements:
            for path, part in module.get_submodule(placement.path).named_modules(prefix=placement.path):
                if isinstance(part, Elastic):
                    values = part.sliced_state(placement.size)
                elif isinstance(part, TunedCopies):
                    values = part.values()
                else:
                    values = {key: value for key, value in part.state_dict().items() if "." not in key}
                state |= {f"{path}.{key}" if path else key: value.clone() for key, value in values.items()}
        return state

    def merge(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[OptionsT]]) -> None:
        """Fold the module into the backbone's weights, exactly.

        Args:
            model: The backbone.
            module: What `build` made.
            placements: The method's placements.

        Raises:
            DesignError: When the method cannot be merged.
        """
        raise DesignError(f"{self.name} cannot be merged: {self.summary}")

    def prepare(
        self,
        model: nn.Module,
        module: nn.Module,
        placements: Sequence[Placed[OptionsT]],
        batches: Iterable[Batch],
        loss: Loss,
    ) -> None:
        """Fit what is chosen once, before training, to the task; a method with `fits_task` has it.

        Args:
            model: The backbone with the design, in evaluation mode.
            module: The method's module.
            placements: The method's placements.
            batches: Training images (B, 3, H, W), normalised, with their targets; can be gone through several times.
            loss: The task's.
        """
        raise NotImplementedError(self.name)

    def baseline(self, shape: BackboneShape, size: int | None) -> tuple[Placement, ...]:
        """The usual design of this method alone: over the whole backbone if it can be, else at every block.

        Args:
            shape: The backbone's.
            size: The method's own size.
        """
        if self.in_backbone:
            return (Placement(self.name, None, size),)
        return tuple(Placement(self.name, block, size) for block in range(shape.depth))

    def sites_of(self, placement: Placement) -> tuple[str, ...]:
        """The sites that a placement acts on: all of the method's, where no option chooses among them."""
        return self.sites

    @property
    def options(self) -> dict[str, Option | None]:
        """Names and defaults of the options that a placement may set."""
        return dict(declared(self.option_type)[1])  # type: ignore[arg-type]  # a class can be hashed

    def usual_setting(self, name: str) -> float:
        """What a setting that may be chosen for the whole method, such as `dropout`, is where nobody sets it.

        Args:
            name: An option that is a number.

        Raises:
            DesignError: When the method has none of that name.
        """
        return usual_number(self.name, self.options, name)

    def at_setting(self, placement: Placement, name: str, value: float) -> Placement:
        """A placement with such a setting in place of what it sets itself.

        Args:
            placement: One of the method's placements.
            name: As `usual_setting` knows it.
            value: What it is set to.

        Raises:
            DesignError: When the method has none of that name.
        """
        self.usual_setting(name)
        return with_option(placement, name, value)

    def placed(self, placement: Placement) -> Placed[OptionsT]:
        """A placement with its options, of the types that the method declares.

        Raises:
            DesignError: On an option that the method does not have, or of another type.
        """
        return Placed(
            placement.block, placement.size or 0, typed_options(self.name, self.option_type, placement.options)
        )

    def check(self, shape: BackboneShape, placement: Placement) -> None:
        """Refuse a placement that this method cannot take on this backbone.

        Args:
            shape: The backbone's.
            placement: One of the method's placements.

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
        placed = self.placed(placement)
        if lacking := self._lacking(shape, placement):
            blocks_differ = shape.sites.issuperset(lacking)
            where = f"block {placement.block} of {shape.name}" if blocks_differ else shape.name
            reasons = [shape.lacks[site] for site in lacking if site in shape.lacks]
            why = f": {reasons[0]}" if reasons else ": its layers are others" if blocks_differ else ""
            at = f"{self.name} acts at {', '.join(lacking)}"
            raise DesignError(f"{at}, which {where} does not have{why}; choose another method")
        self.check_fit(shape, placed)

    def _lacking(self, shape: BackboneShape, placement: Placement) -> list[str]:
        """The sites that a placement cannot do without and that the backbone does not have."""
        own = self.sites_of(placement)
        sites = shape.sites_at(placement.block)
        lacking = [site for site in dict.fromkeys((*own, *self.needs)) if site not in sites]
        if not self.any_site or not sites & set(own):
            return lacking
        absent = {"attn", "mlp"} - set(shape.branches)
        return [site for site in lacking if site in self.needs and site.partition(".")[0] not in absent]

    def check_fit(self, shape: BackboneShape, placement: Placed[OptionsT]) -> None:
        """Beyond the common rules, refuse sizes and options that do not fit the backbone.

        Args:
            shape: The backbone's.
            placement: One of the method's placements.

        Raises:
            DesignError: Naming the rule, the value and what to do.
        """


AnyMethod: TypeAlias = Method[Any]
"""A method, whatever its options are."""
