"""Frozen weights in the type in which autocast multiplies: cast once, and not in each pass.

Autocast remembers a cast for the rest of its block, and of trained weights only: each step would cast all weights and
biases of a frozen backbone again, on a GPU one launch for each, about a third of what a forward pass launches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from petlas.petl.parts.handles import untouched
from petlas.petl.parts.version import version

_CAST = (nn.Linear, nn.Conv2d)
"""What autocast computes in its type; a class derived from these may do more with its weight."""


class _Kept:
    """A frozen tensor in another type, as it was when it was last asked for."""

    def __init__(self) -> None:
        self._state: object = None
        self._cast: nn.Parameter | None = None

    def of(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        state = version(tensor), tensor.data_ptr(), dtype
        if self._cast is None or state != self._state:
            with torch.inference_mode(False), torch.no_grad():  # training may ask for what measuring has made
                self._cast, self._state = nn.Parameter(tensor.to(dtype), requires_grad=False), state
        return self._cast


_kept = WeakTensorKeyDictionary()  # all models that hold a tensor share its cast, which lives as long as the tensor


def _kept_of(tensor: Tensor) -> _Kept:
    kept: _Kept = _kept.setdefault(tensor, _Kept())
    return kept


def frozen_cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in another type, bit for bit as autocast casts it, kept for the next time; itself where it is trained.

    Args:
        tensor: Such as a parameter of the backbone; only float32 is cast.
        dtype: The type.
    """
    if torch.compiler.is_compiling() or not _is_castable(tensor) or dtype is torch.float32:
        return tensor
    return _kept_of(tensor).of(tensor, dtype)


def _is_castable(tensor: Tensor) -> bool:
    return not tensor.requires_grad and tensor.dtype is torch.float32 and not tensor.is_inference()


class _Place:
    """A parameter's place in a layer, with what is known of whoever stands there."""

    def __init__(self, layer: nn.Module, name: str) -> None:
        self.name, self.own = name, vars(layer)
        self._registered = self.own["_parameters"]  # each pass looks here: the layer would take ten times as long
        self._tensor: Tensor | None = None
        self._kept = _Kept()

    def cast(self, dtype: torch.dtype) -> Tensor | None:
        """The cast of what stands there; None where there is none to be used."""
        tensor: Tensor | None = self._registered.get(self.name)
        if tensor is None or not _is_castable(tensor):
            return None
        if tensor is not self._tensor:
            self._tensor, self._kept = tensor, _kept_of(tensor)
        return self._kept.of(tensor, dtype)


class FrozenCasts:
    """The frozen layers of models, which in a `with` block have their weights in autocast's type.

    What is registered, in state dicts for example, stays as it is: a layer sees another tensor by the same name. Layers
    to which anything has been attached are left alone, as that may read the weight itself. A weight that is written to
    is cast anew, unless it is through its `data`, of which torch takes no note.

    Args:
        models: Modules in which the layers are.
        plain: Modules around whose layers other things may stand, none of which reads a weight.
    """

    def __init__(self, models: Iterable[nn.Module], plain: Sequence[nn.Module] = ()) -> None:
        layers = {id(m): m for model in chain(models, plain) for m in model.modules() if type(m) in _CAST}
        self._plain = {id(m) for model in plain for m in model.modules()}
        self._layers = [(m, [_Place(m, name) for name in ("weight", "bias")]) for m in layers.values()]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """The `with` block; nothing happens where autocast is off."""
        dtype = self._dtype()
        put = [] if dtype is None else self._put(dtype)
        try:
            yield
        finally:
            for place in put:
                place.own.pop(place.name, None)

    def _put(self, dtype: torch.dtype) -> list[_Place]:
        put = []
        for layer, places in self._layers:
            if untouched(layer) or id(layer) in self._plain:
                for place in places:
                    if place.name not in place.own and (cast := place.cast(dtype)) is not None:
                        place.own[place.name] = cast
                        put.append(place)
        return put

    def _dtype(self) -> torch.dtype | None:
        """Autocast's type, where that is on and another one than the weights'."""
        for layer, _ in () if torch.compiler.is_compiling() else self._layers[:1]:
            device = next(layer.parameters()).device
            dtype = torch.get_autocast_dtype(device.type)
            return dtype if torch.is_autocast_enabled(device.type) and dtype is not torch.float32 else None
        return None


_models: WeakKeyDictionary[nn.Module, FrozenCasts] = WeakKeyDictionary()


def frozen_casts(model: nn.Module) -> FrozenCasts:
    """Those of a model, found once.

    Args:
        model: A backbone, with a design or without.
    """
    if model not in _models:
        _models[model] = FrozenCasts(model.children())
    return _models[model]
