from __future__ import annotations

import copy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from petlas.search.training.joint_step import JointSteps


@dataclass
class Training:
    """What a training has to be stepped: tensors of two groups, of which one does not decay."""

    seed: int
    clip_grad: float | None = None
    dtype: torch.dtype = torch.float32
    alone: int = 0
    parameters: list[nn.Parameter] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draws = torch.Generator().manual_seed(self.seed)
        shapes = [(3, 4 + self.seed), (2,), ()]
        self.parameters = [nn.Parameter(torch.randn(shape, generator=self.draws).to(self.dtype)) for shape in shapes]
        first, second, third = self.parameters
        groups = [{"params": [third, first], "weight_decay": 0.1 * self.seed}, {"params": [second], "lr": 0.3}]
        self.optimiser = torch.optim.AdamW(groups, lr=0.01 * (self.seed + 1), weight_decay=0.0)
        self.train = SimpleNamespace(clip_grad=self.clip_grad)

    def learn(self, without: int = 0) -> None:
        """New gradients and rates."""
        for number, p in enumerate(self.parameters):
            p.grad = None if number < without else (10**self.seed * torch.randn(p.shape, generator=self.draws)).to(p)
        for group in self.optimiser.param_groups:
            group["lr"] *= 0.9

    def step(self) -> None:
        """As a training makes it by itself."""
        self.alone += 1
        if self.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_grad)
        self.optimiser.step()


def trainings() -> list[Training]:
    return [Training(0), Training(1, 0.5), Training(2, 1e9), Training(3, dtype=torch.float64)]


def assert_same(found: Training, expected: Training) -> None:
    for p, q in zip(found.parameters, expected.parameters, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
        mine, other = (dict(own.optimiser.state.get(key, {})) for own, key in ((found, p), (expected, q)))
        for key, value in other.items():
            torch.testing.assert_close(mine[key], value, rtol=1e-6, atol=1e-7)


def run(members: list[Training], steps: Any) -> list[Training]:
    """Steps of all, of some, without some gradients, by themselves, and of all again."""
    for number in range(8):
        going = members[1:] if number in (3, 4) else members
        for member in members:
            member.learn(without=member.seed if number == 5 else 0)
        steps(going) if number != 6 else [member.step() for member in members]
    return members


def test_each_of_several_is_stepped_as_by_its_own_optimiser() -> None:
    found, expected = run(trainings(), JointSteps()), run(trainings(), lambda going: [own.step() for own in going])
    for member, other in zip(found, expected, strict=True):
        assert_same(member, other)
    assert [member.alone for member in found] == [2, 2, 2, 8]  # the last one is of another type


def test_what_is_not_finite_stays_with_its_own() -> None:
    members = trainings()[:3]
    alone = copy.deepcopy(members[2])
    steps = JointSteps()
    for own in (*members, alone):
        own.learn()
    assert members[1].parameters[0].grad is not None
    members[1].parameters[0].grad[0] = torch.nan
    steps(members)
    alone.step()
    assert members[1].parameters[0].isnan().any() and members[0].parameters[0].isfinite().all()
    assert_same(members[2], alone)


def test_a_step_takes_as_many_operations_for_many_as_for_two() -> None:
    def count(number: int) -> int:
        steps, members = JointSteps(), [Training(seed) for seed in range(number)]
        for _ in range(2):
            for member in members:
                member.learn()
            with torch.profiler.profile() as seen:
                steps(members)
        return sum(event.count for event in seen.key_averages() if event.key in ("aten::mul_", "aten::addcdiv_"))

    assert count(2) == count(5) == 4
