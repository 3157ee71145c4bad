"""No GPU is needed but for the last ones: a recording stands in that does again what it was given."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petlas.petl import (
    METHODS,
    MINI,
    Adapters,
    Design,
    Draws,
    apply,
    everywhere,
    get_method,
    input_config,
    load_backbone,
    shape_of,
    tuning_of,
)
from petlas.search.config import TrainConfig
from petlas.search.objectives import get_objective
from petlas.search.stages.supernet import SupernetRun
from petlas.search.training import ImageBatches, Learner, PackTraining, graphs
from petlas.search.training.graphs import Graphs, graphs_for


class Again:
    """A recording on a CPU; `made` are all that were made.

    Args:
        fault: What goes wrong with what is replayed.
    """

    def __init__(self, models: list[nn.Module], fault: Callable[[], object] = lambda: None) -> None:
        self._models, self._fault, self.replays = models, fault, 0

    def record(self, action: Callable[[], Any]) -> Any:
        state = torch.get_rng_state()
        buffers = [(buffer, buffer.clone()) for model in self._models for buffer in model.buffers()]
        self._action, self._losses = action, action()
        torch.set_rng_state(state)
        for buffer, before in buffers:  # a GPU takes down what it is to do, and does nothing yet
            if not torch.equal(buffer, before):
                buffer.copy_(before)
        self._trained = [p for model in self._models for p in model.parameters() if p.requires_grad]
        self._gradients = [p.grad for p in self._trained]
        return self._losses

    def replay(self) -> None:
        self.replays += 1
        for parameter in self._trained:
            parameter.grad = None
        found = self._action()
        self._fault()
        with torch.no_grad():
            self._losses.copy_(found)
            for parameter, gradient in zip(self._trained, self._gradients, strict=True):
                if gradient is not None:
                    gradient.copy_(parameter.grad)


class Case:
    """A model with a batch norm, what adds its gradients, and how it learns.

    Args:
        noise: What is drawn on the CPU for each batch.
        fault: What goes wrong with what is replayed.
    """

    def __init__(self, noise: float = 0.0, fault: Callable[[nn.Module], object] = lambda model: None) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        self.x, self.y = torch.randn(20, 3), torch.randint(2, (20,))
        self.graphs, self.made, self.renewed = Graphs([self.model], [], self), list[Again](), 0
        self._noise, self._fault = noise, fault

    def make(self) -> Again:
        self.made.append(Again([self.model], partial(self._fault, self.model)))
        return self.made[-1]

    def renew(self) -> None:
        self.renewed += 1

    def compute(self, pick: Tensor) -> Tensor:
        self.model.zero_grad()
        x = self.x[pick] + (self._noise * torch.rand(()) if self._noise else 0.0)
        loss = nn.functional.cross_entropy(self.model(x), self.y[pick])
        loss.backward()
        return loss.detach()

    def step(self, pick: Tensor, by_graphs: bool = True) -> list[Tensor]:
        torch.manual_seed(len(pick))
        loss = (self.graphs(self.compute, pick) if by_graphs else self.compute(pick)).clone()
        gradients = [p.grad.clone() for p in self.model.parameters() if p.grad is not None]
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.1 * parameter.grad)
        return [loss, *gradients, *(buffer.clone() for buffer in self.model.buffers())]


@pytest.fixture(autouse=True)
def nothing_said() -> None:
    vars(graphs)["_say"].cache_clear()


def picks(*sizes: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for size in sizes:
        yield torch.randperm(20, generator=generator)[:size]


def assert_as_without(case: Case, plain: Case, pick: Tensor) -> None:
    for mine, other in zip(case.step(pick), plain.step(pick, by_graphs=False), strict=True):
        torch.testing.assert_close(mine, other)


def test_from_the_second_batch_of_a_shape_on_a_recording_gives_what_is_computed_without() -> None:
    case, plain = Case(), Case()
    for pick in picks(8, 8, 5, 8, 5, 5, 8):
        assert_as_without(case, plain, pick)
    assert [recording.replays for recording in case.made] == [3, 2]


def test_what_is_trained_may_move_to_other_memory() -> None:
    case, plain = Case(), Case()
    for number, pick in enumerate(picks(*[8] * 6)):
        if number == 3:  # as a pack does
            for parameter in case.model.parameters():
                parameter.data = parameter.data.clone()
        assert_as_without(case, plain, pick)
    assert [recording.replays for recording in case.made] == [2, 2]


def test_what_a_recording_cannot_do_is_computed_as_it_is_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def fail(model: nn.Module) -> None:
        raise RuntimeError("operation not permitted")

    def disturb(model: nn.Module) -> None:
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.add_(1.0)

    def fill(model: nn.Module) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    told = {"not permitted": Case(0.0, fail), "something else": Case(0.0, disturb), "on the CPU": Case(0.1)}
    told["out of memory"] = Case(0.0, fill)
    for reason, case in told.items():
        plain = Case(0.1 if reason == "on the CPU" else 0.0)
        caplog.clear()
        with caplog.at_level(logging.INFO, "petlas"):
            for pick in picks(8, 8, 8, 5, 8, 5, 5):
                assert_as_without(case, plain, pick)
        assert len(caplog.messages) == 1 and reason in caplog.text
        assert case.renewed == 2 * (reason in ("not permitted", "out of memory"))


def test_buffers_that_a_batch_leaves_alone_are_not_written_to() -> None:
    case = Case()
    case.model.eval()
    before = [buffer._version for buffer in case.model.buffers()]
    for pick in picks(8, 8, 8):
        case.step(pick)
    assert case.made and before == [buffer._version for buffer in case.model.buffers()]


def test_few_recordings_are_kept() -> None:
    case = Case()
    for pick in picks(*(size for size in range(2, 12) for _ in range(3))):
        case.step(pick)
    assert len(case.made) == 10 and len(vars(case.graphs)["_graphs"]) < 8


def test_a_training_whose_steps_are_not_alike_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr("petlas.search.training.learner.graphs_for", lambda *given: made.append(given))
    model = load_backbone(MINI)
    apply(model, everywhere("bitfit", model))
    for kind in (Changing, Plain):
        assert not made
        kind(model, [], get_objective("single_label"), TrainConfig(), 0)  # type: ignore[arg-type]
    assert len(made) == 1 and not SupernetRun.still


def test_there_are_none_on_a_cpu_nor_where_they_are_not_wanted() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert graphs_for([], TrainConfig(), cpu) is None
    assert graphs_for([], TrainConfig(cuda_graphs="off"), gpu) is None


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def learner_on_gpu(name: str, graphs: str, seed: int = 0, host: Adapters | None = None) -> Learner:
    """A training of a method at its usual size, on 80 images in batches of 32."""
    gpu = torch.device("cuda")
    host = Adapters(load_backbone(MINI).to(gpu)) if host is None else host
    method, shape = get_method(name), shape_of(host.backbone)
    torch.manual_seed(seed)
    model = host.add(f"{name}{seed}", Design.of(method.baseline(shape, method.default_size)), 5)
    generator = torch.Generator().manual_seed(seed)
    for parameter in tuning_of(model).parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator).to(gpu)
    pixels = torch.randint(256, (80, 3, 64, 64), generator=generator, dtype=torch.uint8)
    labels = torch.randint(5, (80,), generator=generator)
    data = ImageBatches(pixels.numpy(), labels.numpy(), input_config(model), gpu, 32)
    train = TrainConfig(epochs=3, batch_size=32, warmup_epochs=1, amp="bf16", cuda_graphs=graphs)  # type: ignore[arg-type]
    return Plain(model, data, get_objective("single_label"), train, seed)


class Plain(Learner):
    def accumulate(self, images: Any, targets: Any) -> Tensor:
        return self.gradients(images, targets)


class Changing(Plain):
    still = False


def trained(learner: Learner) -> tuple[list[float], list[Tensor]]:
    losses = []
    for _ in range(3):
        learner.train_epoch()
        losses.append(learner.progress.loss)
    return losses, [p.detach().clone() for p in learner.parameters]


@needs_gpu
@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_learns_the_same_by_graphs(name: str, caplog: pytest.LogCaptureFixture) -> None:
    try:
        plain = learner_on_gpu(name, "off")
    except Exception as error:  # a method that the mini backbone does not take
        pytest.skip(str(error))
    expected, weights = trained(plain)
    with caplog.at_level(logging.INFO, "petlas"):
        found, others = trained(learner_on_gpu(name, "auto"))
    assert found == pytest.approx(expected, rel=2e-3)
    for mine, other in zip(others, weights, strict=True):
        torch.testing.assert_close(mine, other, rtol=2e-2, atol=5e-3)  # not all kernels add up in one order
    assert not caplog.messages


@needs_gpu
def test_a_pack_of_those_that_draw_learns_the_same_by_graphs(caplog: pytest.LogCaptureFixture) -> None:
    def packed(graphs: str) -> dict[str, float]:
        host = Adapters(load_backbone(MINI).to("cuda"))
        names = ("convpass", "lora", "fact_tt", "adapter", "convpass")
        members = {}
        for seed, name in enumerate(names):
            members[f"{name}{seed}"] = learner_on_gpu(name, graphs, seed, host)
        pack = PackTraining(host, members)
        for _ in range(3):
            pack.train_epoch()
        return {name: learner.progress.loss for name, learner in members.items()}

    torch.manual_seed(0)
    backbone_seed = torch.random.get_rng_state()
    expected = packed("off")
    torch.random.set_rng_state(backbone_seed)
    with caplog.at_level(logging.INFO, "petlas"):
        found = packed("auto")
    assert found == pytest.approx(expected, rel=5e-3) and not caplog.messages


@needs_gpu
def test_draws_on_a_gpu_leave_the_process_s_own_alone() -> None:
    gpu = torch.device("cuda")
    torch.manual_seed(3)
    expected = torch.rand(4, device=gpu)
    torch.manual_seed(5)
    draws = Draws(gpu)
    first = torch.rand(2, device=gpu)
    torch.manual_seed(3)
    with draws:
        assert torch.equal(torch.rand(2, device=gpu), first)
    assert torch.equal(torch.rand(4, device=gpu), expected)
