"""Several designs on one backbone, run at once: its frozen layers see the images of all of them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

import torch
from torch import Tensor, nn

from petlas.petl.adapters import Adapters
from petlas.petl.backbones import family_of
from petlas.petl.design import DesignError
from petlas.petl.parts.casts import FrozenCasts
from petlas.petl.parts.draws import Draws
from petlas.petl.parts.handles import ForwardOverride, Handle
from petlas.petl.prefix import Streams, replay
from petlas.petl.routing import Flow, Router, Rows, Shapes, parts_of, shapes_of, trained_at_root, unlike

Inputs: TypeAlias = Tensor | Streams
"""Images (B, 3, H, W), or what stands in for them."""


class Pack:
    """Designs of one backbone that are run at once, each on images of its own.

    A frozen layer runs once, on the images of all of them. What a design inserts, and a layer whose parameters it
    trains, sees the images of that design only, and draws from random numbers of its own. So each computes what it
    computes alone, up to how products of other sizes are rounded, and one backward pass through the sum of their losses
    gives each the gradients of its own.

    Args:
        adapters: Designs on their backbone.
        names: Those that are run; they stay what they are as long as the pack is used.
        draws: Of each, where its modules draw in training; without one, from the process's own.

    Raises:
        DesignError: When they do not go together: see `groups`.
    """

    def __init__(
        self, adapters: Adapters, names: Iterable[str] | None = None, draws: Mapping[str, Draws] | None = None
    ) -> None:
        self.models = {name: adapters[name] for name in (adapters if names is None else names)}
        (group, *others), alone = groups(adapters, self.models)
        if others or len(group) < len(self.models):
            why = [*alone.values(), "their shapes differ in layers that they share"][0]
            raise DesignError(f"designs are run at once where they share layers, and {why}; run these one by one")
        self._draws: Mapping[str, Draws] = draws or {}
        self._plain, self._flow = _plain(adapters, self.models), Flow()
        self._handles: list[Handle] = list(family_of(self._plain).exposed(self._plain))
        parts = parts_of(self._plain, self.models)
        ways = {name: [(path, own[name].whole) for path, own in parts.items() if name in own] for name in self.models}
        self._order = sorted(self.models, key=ways.__getitem__)  # those lie behind one another that act alike
        for path, own in parts.items():
            module = self._plain.get_submodule(path)
            self._handles.append(ForwardOverride(module, Router(self._flow, module.forward, own, self.drawing)))
        whole = (part.module for own in parts.values() for part in own.values() if part.whole)
        self._casts = FrozenCasts(whole, plain=[self._plain])
        self.train(False)
        if (mixed := self._mixes()) is not None:
            raise DesignError(
                f"what is run at once must compute what it computes alone, and {mixed} does not; run it alone"
            )
        self.train(adapters.backbone.training)

    def train(self, mode: bool = True) -> None:
        """Set all of them to training or evaluation.

        Args:
            mode: Training.
        """
        for model in (self._plain, *self.models.values()):
            if model.training != mode:  # a walk through all modules
                model.train(mode)

    def drawing(self, name: str) -> AbstractContextManager[None]:
        """A `with` block in which a design draws from its own random numbers.

        Args:
            name: The design's.
        """
        return self._draws.get(name, nullcontext())

    def __call__(self, inputs: Mapping[str, Inputs]) -> dict[str, Tensor]:
        """The logits (B, K) of designs, each on its own images.

        Where a design's leading blocks are known, it joins behind them.

        Args:
            inputs: By the names of some of the designs, any number of images each.

        Raises:
            DesignError: On a name that is none of the pack's.
        """
        if unknown := [name for name in inputs if name not in self.models]:
            raise DesignError(f"a pack runs its own designs, {', '.join(self.models)}, got {', '.join(unknown)}")
        ordered = {name: inputs[name] for name in self._order if name in inputs}
        with self._casts():
            logits = self._logits(ordered)
        return {name: logits[name] for name in inputs}

    def _logits(self, inputs: Mapping[str, Inputs]) -> dict[str, Tensor]:
        images = {name: given for name, given in inputs.items() if isinstance(given, Tensor)}
        if len(images) < len(inputs):
            return self._in_parts(inputs, images)
        with self._flow.of(_rows(inputs, list(inputs))):
            return _by_name(inputs, list(inputs), self._plain(torch.cat(list(images.values()))))

    def _in_parts(self, inputs: Mapping[str, Inputs], images: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Block by block, as some join between them."""
        family, blocks = family_of(self._plain), len(family_of(self._plain).blocks(self._plain))
        order, x = list(images), None
        if images:
            with self._flow.of(_rows(inputs, order)):
                x = family.enter(self._plain, torch.cat(list(images.values())))
        for number in range(blocks + 1):
            for name, given in inputs.items():
                if isinstance(given, Streams) and given.prefix.blocks == number:
                    with self.drawing(name):
                        entering = replay(self.models[name], given)
                    x = entering if x is None else torch.cat((x, entering))
                    order.append(name)
            if x is not None and number < blocks:
                with self._flow.of(_rows(inputs, order)):
                    x = family.step(self._plain, number, x)
        assert x is not None, "a pack is run on the images of at least one design"
        with self._flow.of(_rows(inputs, order)):
            logits = family.leave(self._plain, x)
        return _by_name(inputs, order, logits)

    @torch.no_grad()
    def _mixes(self) -> str | None:
        """A design that computes anything else here than alone, as where images do not lie behind one another."""
        noise = torch.Generator().manual_seed(0)
        like, size = next(self._plain.parameters()), family_of(self._plain).image_size(self._plain)
        images = {name: torch.randn(2, 3, *size, generator=noise).to(like) for name in self.models}
        found = self(images)
        for name, model in self.models.items():
            expected = model(images[name])
            scale = expected.abs().max().item()
            if not torch.allclose(found[name], expected, rtol=0.0, atol=1e-2 * scale):
                return name
        return None


def groups(adapters: Adapters, names: Iterable[str]) -> tuple[list[list[str]], dict[str, str]]:
    """Which designs can be run at once: those that have the same shapes in all layers that they share.

    So prompts go with as many prompts in the same blocks. A design that trains what the backbone holds outside of its
    layers shares none of them, as everything comes after that.

    Args:
        adapters: Designs on their backbone, with as many outputs each.
        names: Of the designs.

    Returns:
        The groups, one for each name that is like no other before, and of names that must be alone the reason.
    """
    models = {name: adapters[name] for name in names}
    plain, found, alone = _plain(adapters, models), [], {}
    known: list[list[Shapes]] = []
    for name, model in models.items():
        if trained := trained_at_root(plain, model):
            alone[name] = f"{name} trains {', '.join(trained)}, which stand outside of all layers"
            found.append([name])
            known.append([])
            continue
        shapes = shapes_of(plain, model)
        for group, others in zip(found, known, strict=True):
            if others and not any(unlike(shapes, other) for other in others):
                group.append(name)
                others.append(shapes)
                break
        else:
            found.append([name])
            known.append([shapes])
    return found, alone


def _plain(adapters: Adapters, models: Mapping[str, nn.Module]) -> nn.Module:
    """The backbone without a design, with a head as the designs have."""
    model = next(iter(models.values()))
    with torch.random.fork_rng(devices=[]):  # a new head draws weights, which nobody uses
        return adapters.twin(family_of(model).outputs(model))


def _by_name(inputs: Mapping[str, Inputs], order: Sequence[str], logits: Tensor) -> dict[str, Tensor]:
    return dict(zip(order, logits.split([len(inputs[name]) for name in order]), strict=True))


def _rows(inputs: Mapping[str, Inputs], order: Sequence[str]) -> Rows:
    return tuple((name, len(inputs[name])) for name in order)
