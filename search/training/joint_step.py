"""The optimisers' steps of several trainings, as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from petlas.search.training.learner import Learner


class JointSteps:
    """Steps of AdamW of several trainings, in as many operations as one parameter takes, and each as if alone.

    What they train lies in one vector, and so do its moments, as long as the same ones are stepped. Each parameter has
    the rate, the decay and the count of steps that its own optimiser has for it, and each training its own clipping.
    The parameters, and the states of their optimisers, are views of those vectors: a checkpoint, or a step that a
    training makes by itself, finds all in its place.
    """

    def __init__(self) -> None:
        self._last: _Joined | None = None

    def __call__(self, learners: Sequence[Learner]) -> None:
        """A step of each, whose gradients are there and whose optimisers have their rates.

        One with a parameter that has no gradient, which AdamW passes over, is stepped by itself, and so is one whose
        parameters are of another type than the first one's.

        Args:
            learners: The trainings.
        """
        like = learners[0].parameters[0]
        able = [own for own in learners if all(p.grad is not None and p.dtype == like.dtype for p in own.parameters)]
        for learner in learners if len(able) < 2 else (own for own in learners if own not in able):
            learner.step()
        if len(able) > 1:
            if self._last is None or self._last.learners != able:
                self._last = _Joined(able)
            self._last.step()


class _Joined:
    """Trainings whose parameters and moments lie behind one another."""

    @torch.no_grad()
    def __init__(self, learners: Sequence[Learner]) -> None:
        self.learners = list(learners)
        self._parameters = [p for own in learners for group in own.optimiser.param_groups for p in group["params"]]
        states = [own.optimiser.state[p] for own in learners for g in own.optimiser.param_groups for p in g["params"]]
        pairs, sizes = list(zip(self._parameters, states, strict=True)), [p.numel() for p in self._parameters]
        self._weights = torch.cat([p.flatten() for p in self._parameters])
        self._mean = torch.cat([state.get("exp_avg", torch.zeros_like(p)).flatten() for p, state in pairs])
        self._square = torch.cat([state.get("exp_avg_sq", torch.zeros_like(p)).flatten() for p, state in pairs])
        self._counts = torch.tensor([float(state.get("step", 0.0)) for state in states])  # AdamW has it on the CPU, too
        parts = (vector.split(sizes) for vector in (self._weights, self._mean, self._square))
        for (p, state), count, weight, mean, square in zip(pairs, self._counts, *parts, strict=True):
            p.data = weight.view_as(p)
            state |= {"step": count, "exp_avg": mean.view_as(p), "exp_avg_sq": square.view_as(p)}
        self._sizes = torch.tensor(sizes).to(self._weights.device)
        self._lengths = [sum(p.numel() for p in own.parameters) for own in learners]
        self._spans = torch.tensor(self._lengths).to(self._weights.device)
        limits = [own.train.clip_grad or math.inf for own in learners]
        self._limits = torch.tensor(limits).to(self._weights) if min(limits) < math.inf else None

    @torch.no_grad()
    def step(self) -> None:
        """As torch's AdamW (Loshchilov and Hutter, 2019), with numbers of its own for each parameter."""
        first = self.learners[0].optimiser.defaults
        (beta1, beta2), length = first["betas"], len(self._weights)
        grads = self._clipped(torch.cat([p.grad.flatten() for p in self._parameters if p.grad is not None]))
        groups = [group for own in self.learners for group in own.optimiser.param_groups]
        rates, decays = (
            torch.tensor([group[key] for group in groups for _ in group["params"]], dtype=torch.float64)
            for key in ("lr", "weight_decay")
        )
        self._counts += 1
        counts = self._counts.double()
        each = torch.stack((1 - rates * decays, rates / (1 - beta1**counts), (1 - beta2**counts).sqrt()))
        each = each.to(self._weights.dtype)
        if self._weights.is_cuda:
            each = each.pin_memory().to(self._weights.device, non_blocking=True)  # nobody waits for the step before
        kept, size, root = each.repeat_interleave(self._sizes, dim=1, output_size=length)
        self._weights.mul_(kept)
        self._mean.lerp_(grads, 1 - beta1)
        self._square.mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
        self._weights.addcdiv_(size.mul_(self._mean), self._square.sqrt().div_(root).add_(first["eps"]), value=-1)

    def _clipped(self, grads: Tensor) -> Tensor:
        """The gradients, each training's own norm at most at its limit, as `nn.utils.clip_grad_norm_` has it."""
        if self._limits is None:
            return grads
        norms = torch.stack([torch.linalg.vector_norm(part) for part in grads.split(self._lengths)])
        shares = (self._limits / (norms + 1e-6)).clamp_(max=1)
        return grads.mul_(shares.repeat_interleave(self._spans, output_size=len(grads)))
