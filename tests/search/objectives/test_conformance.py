"""What every objective keeps to, one that comes from outside too."""

import json
import math
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch

from petlas.search.objectives import OBJECTIVES, Metric, Objective, get_objective
from petlas.search.objectives.multi_label import MultiLabel

CLASSES = ("a", "b", "c", "d")
IMAGES = 24


class AnyOf(MultiLabel):
    """A toy from outside: the share of images whose surest class is one of theirs."""

    kind = "any_of"
    metrics = (Metric("hit", paired=True), Metric("miss", maximize=False, paired=True, percent=False))

    def meter(self) -> "Hits":
        return Hits(self.metric.maximize)


class Hits:
    def __init__(self, hits: bool) -> None:
        self.hits, self.seen = hits, torch.zeros(0)

    def add(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        hit = targets.gather(1, logits.argmax(1, keepdim=True))[:, 0].float()
        hit[~logits.isfinite().all(1)] = math.nan
        self.seen = torch.cat([self.seen, hit])

    def value(self) -> float:
        mean = self.seen.mean().item() if len(self.seen) else math.nan
        return mean if self.hits else 1 - mean


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line adds an objective."""
    monkeypatch.setitem(OBJECTIVES, "any_of", f"{__name__}:AnyOf")


def one_hot(targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(targets, len(CLASSES)).bool() if targets.ndim == 1 else targets


TARGETS: dict[str, Callable[[], torch.Tensor]] = {
    "single_label": lambda: torch.arange(IMAGES) % len(CLASSES),
    "multi_label": lambda: torch.arange(IMAGES)[:, None] % torch.tensor([2, 3, 4, 5]) == 0,
    "any_of": lambda: torch.arange(IMAGES)[:, None] % torch.tensor([1, 2, 3, 4]) == 0,
}
"""Targets as the views of each kind of task hold them."""


def names() -> Iterator[tuple[str, str | None]]:
    for kind in ("any_of", *OBJECTIVES):
        yield kind, None
    yield "single_label", "mean_per_class"
    yield "any_of", "miss"


@pytest.fixture(params=[pytest.param(case, id=f"{case[0]}-{case[1]}") for case in names()])
def objective(request: pytest.FixtureRequest) -> Objective:
    return get_objective(*request.param)


@pytest.fixture
def targets(objective: Objective) -> torch.Tensor:
    torch.manual_seed(0)
    return TARGETS[objective.kind]()


def value(objective: Objective, logits: torch.Tensor, targets: torch.Tensor, size: int = 5) -> float:
    meter = objective.meter()
    for some, of in zip(logits.split(size), targets.split(size), strict=True):
        meter.add(some, of)
    return meter.value()


def test_it_is_registered_under_its_kind_and_names_its_metrics_apart(objective: Objective) -> None:
    assert objective.kind in OBJECTIVES
    assert len({metric.name for metric in objective.metrics}) == len(objective.metrics) >= 1
    assert type(objective)().metric == objective.metrics[0]


def test_its_metrics_are_plain_data_and_it_travels_to_workers(objective: Objective) -> None:
    for metric in objective.metrics:
        assert Metric.from_dict(json.loads(json.dumps(metric.to_dict()))) == metric
    if objective.kind != "any_of":  # this module cannot be imported by its name elsewhere
        assert pickle.loads(pickle.dumps(objective)).metric == objective.metric


def test_the_loss_is_a_mean_over_the_batch_with_gradients(objective: Objective, targets: torch.Tensor) -> None:
    logits = torch.randn(IMAGES, objective.outputs(len(CLASSES)), requires_grad=True)
    for smoothing in (0.0, 0.1):
        whole = objective.loss(logits, targets, smoothing)
        halves = [objective.loss(x, y, smoothing) for x, y in zip(logits.split(12), targets.split(12), strict=True)]
        torch.testing.assert_close(whole, torch.stack(halves).mean())
    whole.backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad.any()


def test_a_batch_of_one_has_a_loss(objective: Objective, targets: torch.Tensor) -> None:
    assert objective.loss(torch.randn(1, objective.outputs(len(CLASSES))), targets[:1]).isfinite()


def test_descending_the_loss_makes_the_metric_better(objective: Objective, targets: torch.Tensor) -> None:
    logits = (-2 * one_hot(targets).float() + 0.1 * torch.randn(IMAGES, len(CLASSES))).requires_grad_(True)
    before = value(objective, logits.detach(), targets)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(100):
        optimiser.zero_grad()
        objective.loss(logits, targets).backward()
        optimiser.step()
    after = value(objective, logits.detach(), targets)
    assert (after > before) if objective.metric.maximize else (after < before)
    assert objective.metric.format(after)


def test_the_value_does_not_depend_on_how_images_are_batched(objective: Objective, targets: torch.Tensor) -> None:
    logits = torch.randn(IMAGES, len(CLASSES))
    assert len({value(objective, logits, targets, size) for size in (1, 7, IMAGES)}) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_outputs_that_are_not_finite_have_no_value(objective: Objective, targets: torch.Tensor, bad: float) -> None:
    logits = torch.randn(IMAGES, len(CLASSES))
    logits[3, 1] = bad
    assert math.isnan(value(objective, logits, targets))


def test_what_it_says_of_images_has_the_form_of_targets(objective: Objective, targets: torch.Tensor) -> None:
    sure = objective.confidences(20.0 * one_hot(targets) - 10)
    said = objective.said(sure)
    assert (said.dtype, said.tolist()) == (targets.dtype, targets.tolist())
    for row, own in zip(sure.tolist(), one_hot(said), strict=True):
        named = {name for name, _ in objective.labels(row, CLASSES)}
        assert named == {name for name, yes in zip(CLASSES, own, strict=True) if yes}


def test_a_pupil_learns_what_is_taught(objective: Objective) -> None:
    teacher = torch.randn(IMAGES, len(CLASSES))
    taught = objective.soften(teacher)
    pupil = torch.zeros(IMAGES, len(CLASSES), requires_grad=True)
    optimiser = torch.optim.Adam([pupil], lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        objective.distil(pupil, taught).backward()
        optimiser.step()
    torch.testing.assert_close(objective.soften(pupil.detach()), taught, atol=0.02, rtol=0)


def test_confidences_are_shares_that_rank_as_the_outputs_do(objective: Objective) -> None:
    logits = torch.randn(IMAGES, len(CLASSES))
    shares = objective.confidences(logits)
    assert shares.shape == logits.shape and ((shares >= 0) & (shares <= 1)).all()
    assert torch.equal(shares.argsort(1), logits.argsort(1))


def test_labels_are_classes_with_their_confidences_the_surest_first(objective: Objective) -> None:
    row = [0.2, 0.6, 0.1, 0.55]
    found = objective.labels(row, CLASSES)
    assert set(found) <= set(zip(CLASSES, row, strict=True))
    assert found[0] == ("b", 0.6)
    assert [share for _, share in found] == sorted((share for _, share in found), reverse=True)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_what_is_right_and_wrong_is_told_class_by_class_as_plain_data(kind: str) -> None:
    from dataclasses import asdict

    objective, targets = get_objective(kind), TARGETS[kind]()
    logits = torch.randn(IMAGES, len(CLASSES), generator=torch.Generator().manual_seed(0))
    found = objective.assess(objective.confidences(logits), targets, CLASSES)
    assert [row["class"] for row in found.per_class] == list(CLASSES)
    assert [row["images"] for row in found.per_class] == one_hot(targets).sum(0).tolist()
    assert 0 <= found.calibration.ece <= 1
    assert json.loads(json.dumps(asdict(found))) == asdict(found)
    perfect = objective.assess(one_hot(targets).float(), targets, CLASSES)
    assert perfect.calibration.ece == 0
    assert all(row["precision"] == 1 for row in perfect.per_class)
