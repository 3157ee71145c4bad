"""Training a backbone's own parameters, and giving the originals back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from torch import Tensor, nn

from petlas.petl.design import DesignError
from petlas.petl.parts.tree import Tree


class TunedCopies(Tree):
    """Trained copies of a model's own parameters, put in their places; removing them puts the originals back.

    A copy is registered once: in the model while it is in its place there, and here while it is not. So no two names
    of a state dict share memory.

    Args:
        paths: The paths of the parameters in the model, with the names of their copies; a name is the path where only
            paths are given.
    """

    def __init__(self, paths: Iterable[str] | Mapping[str, str]) -> None:
        super().__init__()
        named = dict(paths) if isinstance(paths, Mapping) else {path: path for path in paths}
        self.names: dict[str, str] = named
        self._placed: dict[str, tuple[nn.Module, nn.Parameter]] = {}  # path: where it is, and the original

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the parameters in the model."""
        return tuple(self.names)

    def place(self, model: nn.Module, paths: Iterable[str] | None = None) -> None:
        """Put copies into the model; a copy is made when its place is first taken.

        Args:
            model: The model.
            paths: Those to put in place; all by default.

        Raises:
            DesignError: When another method tunes one of them already.
        """
        paths = self.paths if paths is None else tuple(paths)
        for path in paths:
            if model.get_parameter(path).requires_grad:
                raise DesignError(f"a parameter can be tuned by one method only, and {path} is tuned twice")
        for path in paths:
            parent, _, attribute = path.rpartition(".")
            owner, original = model.get_submodule(parent), model.get_parameter(path)
            try:
                copy = self.take(self.names.setdefault(path, path))
            except AttributeError:  # it was never made
                copy = nn.Parameter(original.detach().clone())
            setattr(owner, attribute, copy)
            self._placed[path] = (owner, original)

    def placed(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The name and the value of each copy that is in its place in the model."""
        for path, (owner, _) in self._placed.items():
            yield self.names[path], owner.get_parameter(path.rpartition(".")[2])

    def parameter(self, name: str) -> nn.Parameter:
        """The copy of that name, wherever it is."""
        placed = dict(self.placed())
        return placed[name] if name in placed else self.get_parameter(name)

    def values(self) -> dict[str, Tensor]:
        """All copies, as plain values."""
        return {name: value.detach() for name, value in (*self.named_parameters(), *self.placed())}

    def keep(self) -> None:
        """Make the tuned values the backbone's own: `remove` then leaves them in place."""
        self._placed.clear()

    def remove(self) -> None:
        """Put back the originals, on the device where the model now is."""
        for path, (owner, original) in self._placed.items():
            attribute = path.rpartition(".")[2]
            with suppress(AttributeError):  # whoever took the parameter away has taken the copy, too
                copy = owner.get_parameter(attribute)
                original.data = original.data.to(copy)
                self.add(self.names[path], copy)
            setattr(owner, attribute, original)
        self._placed.clear()
