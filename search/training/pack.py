"""Trainings of several designs on one backbone, in one step each for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from petlas.petl import Adapters, Draws, Pack
from petlas.search.training.graphs import graphs_for
from petlas.search.training.joint_step import JointSteps
from petlas.search.training.learner import Learner
from petlas.search.training.numerics import deterministic, precision


class PackTraining:
    """Trainings whose steps are made together: the backbone sees the images of all of them at once.

    Each has its own order of images, random numbers, loss, learning rate, optimiser and checkpoint, and its numbers are
    those that it has alone, up to rounding. They may stand at different epochs, and have different batches.

    Args:
        adapters: Their designs on one backbone.
        members: The trainings, by the names of the designs, which can be run at once: see `petlas.petl.groups`.
    """

    def __init__(self, adapters: Adapters, members: Mapping[str, Learner]) -> None:
        self._members = dict(members)
        devices = {learner.device for learner in self._members.values()}
        self._draws = {name: Draws(device) for device in devices for name in self._members}
        self._pack, self._steps = Pack(adapters, self._members, self._draws), JointSteps()
        first = next(iter(self._members.values()))
        models = [learner.model for learner in self._members.values()]
        self._graphs = graphs_for(models, first.train, first.device, list(self._draws.values()))

    def train_epoch(self, names: Iterable[str] | None = None) -> None:
        """One epoch of each; whoever has done all of its epochs, or diverged, is left as it is.

        Args:
            names: Of those that go on; None for all.
        """
        wanted = self._members if names is None else names
        members = {name: self._members[name] for name in wanted if not self._members[name].finished}
        if not members:
            return
        with deterministic(any(learner.train.deterministic for learner in members.values())):
            picks = {}
            self._pack.train()
            for name, learner in members.items():
                with self._draws[name]:
                    picks[name] = learner.begin_epoch()
            for step in range(max(map(len, picks.values()))):
                self.step({name: picks[name][step] for name in members if step < len(picks[name])})
        for learner in members.values():
            learner.end_epoch()

    def step(self, picks: Mapping[str, torch.Tensor]) -> None:
        """One step of each of some members, which have begun an epoch.

        Args:
            picks: The images of the batch of each (B,).
        """
        losses = self._learn(picks) if self._graphs is None else self._graphs(self._learn, picks)
        for name, loss in losses.items():
            self._members[name].before_step(loss, picks[name])
        self._steps([self._members[name] for name in picks])

    def _learn(self, picks: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The losses of some members, detached, whose gradients are there."""
        inputs, targets = {}, {}
        for name, pick in picks.items():
            with self._draws[name]:
                inputs[name], targets[name] = self._members[name].batch(pick)
        first = self._members[next(iter(picks))]
        with precision(first.device, first.autocast):
            logits = self._pack(inputs)
        losses = {name: self._members[name].loss(logits[name].float(), targets[name]) for name in picks}
        torch.stack(list(losses.values())).sum().backward()
        return {name: loss.detach() for name, loss in losses.items()}
