"""A method that inserts nothing: it trains some of the backbone's own parameters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.method import Method
from petlas.petl.parts.placed import NoOptions, Placed
from petlas.petl.parts.tuned_copies import TunedCopies
from petlas.petl.shape import BackboneShape


class SubsetMethod(Method[NoOptions]):
    """A method without options that inserts nothing and tunes a subset of the backbone's own parameters."""

    zero_start = True
    mergeable = True
    in_backbone = True
    option_type = NoOptions

    @abstractmethod
    def paths(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> list[str]:
        """The paths of the parameters that are tuned."""

    def build(self, shape: BackboneShape, placements: Sequence[Placed[NoOptions]]) -> TunedCopies:
        """A holder that `attach` fills with the backbone's parameters."""
        return TunedCopies({path: shape.key(path) for path in self.paths(shape, placements)})

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[NoOptions]]) -> Iterator[Handle]:
        """Put trained copies in the parameters' places; the handle puts the originals back."""
        assert isinstance(module, TunedCopies)
        module.place(model, self.paths(family_of(model).shape(model), placements))
        yield module

    def narrow(self, module: nn.Module, placements: Sequence[Placed[NoOptions]]) -> None:
        """Nothing: `attach` takes the parameters of its placements only."""

    def sliced(self, module: nn.Module, placements: Sequence[Placed[NoOptions]]) -> dict[str, Tensor]:
        """The values of the placements' parameters."""
        assert isinstance(module, TunedCopies)
        places = [f"{p.path}." if p.path else "" for p in placements]
        return {key: v.clone() for key, v in module.values().items() if any(map(key.startswith, places))}

    def merge(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[NoOptions]]) -> None:
        """Keep the tuned values: they are the backbone's weights."""
        assert isinstance(module, TunedCopies)
        module.keep()
