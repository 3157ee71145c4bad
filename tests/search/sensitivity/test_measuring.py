from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from petlas.petl import load_backbone, reset_head
from petlas.petl.shape import block_tensors
from petlas.search.sensitivity import measuring
from petlas.search.sensitivity.measuring import measure, sites_of, tensor_sensitivities
from petlas.search.workbench import Workbench

Bench = Callable[..., Workbench]
SMALL = {"batches": 2, "batch_size": 4, "rule": "proportional", "budgets": [2_000, 4_000]}
OPERATIONS = ["norm1", "q", "k", "v", "proj", "norm2", "fc1", "fc2"]


class Enough(Exception):
    """What was to be seen was seen."""


def seen(monkeypatch: pytest.MonkeyPatch, bench: Workbench) -> list[tuple[torch.nn.Module, Any]]:
    """The model and the batches that are measured."""
    calls = []

    def watch(model: torch.nn.Module, batches: Any, *_: Any) -> Any:
        calls.append((model, list(batches)))
        raise Enough

    monkeypatch.setattr(measuring, "tensor_sensitivities", watch)
    with pytest.raises(Enough):
        measure(bench)
    return calls


def test_sites_are_the_sums_of_squared_gradients_of_a_sample_of_the_training_images(bench: Bench) -> None:
    it = bench(sensitivity=SMALL)
    model = load_backbone(it.config.backbone.name, None, img_size=32)
    torch.manual_seed(it.config.seed)
    reset_head(model, 10)
    data = it.batches(it.task.views["train"].sample(8, it.config.seed))
    sums = {path: torch.zeros_like(p) for path, p in model.named_parameters()}
    for start in (0, 4):
        model.zero_grad()
        images, labels = data.batch(slice(start, start + 4))
        F.cross_entropy(model.eval()(images), labels).backward()
        for path, parameter in model.named_parameters():
            sums[path] += parameter.grad**2
    shape, found = measure(it)
    for block, site in enumerate(sites_of(found, shape)):
        at = {
            path.removeprefix(f"blocks.{block}."): s for path, s in sums.items() if path.startswith(f"blocks.{block}.")
        }
        qkv = at["attn.qkv.weight"].view(3, -1).sum(1) + at["attn.qkv.bias"].view(3, -1).sum(1)
        whole = {"proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2", "norm1": "norm1", "norm2": "norm2"}
        expected = dict(zip("qkv", qkv, strict=True))
        expected |= {name: at[f"{path}.weight"].sum() + at[f"{path}.bias"].sum() for name, path in whole.items()}
        assert site == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-4)
        assert list(site) == OPERATIONS


def test_a_scale_counts_with_the_operation_that_it_is_behind() -> None:
    model = load_backbone("vit_small_patch14_dinov2", img_size=28, num_classes=3, pretrained=False)
    batches = [(torch.randn(2, 3, 28, 28), torch.tensor([0, 2]))]
    shape, found = tensor_sensitivities(model, batches, "spt", F.cross_entropy)
    last = {tensor.name: float(values.sum()) for tensor, values in found.items() if tensor.block == 11}
    site = sites_of(found, shape)[11]
    assert len(shape.scales) == 24
    assert site.keys() == set(OPERATIONS)
    assert sum(site.values()) == pytest.approx(sum(last.values()))
    assert site["proj"] > last["proj"] + last["proj.bias"]
    assert len(found) == sum(len(block_tensors(shape, block)) for block in range(12))


def test_the_loss_is_the_one_that_is_handed_in(bench: Bench) -> None:
    it = bench()
    model = it.backbone()
    reset_head(model, 10)
    batches = [it.batches(it.task.views["train"].sample(4, 0)).batch(slice(0, 4))]
    _, one = tensor_sensitivities(model, batches, "spt", F.cross_entropy)
    _, three = tensor_sensitivities(model, batches, "spt", lambda x, y: 3 * F.cross_entropy(x, y))
    for tensor, values in one.items():
        torch.testing.assert_close(three[tensor], 9 * values)


def test_a_warm_head_is_better_than_a_random_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for head in ("random", "warm"):
        (model, batches), *_ = seen(monkeypatch, bench(sensitivity=SMALL | {"head": head}))
        losses.append(sum(F.cross_entropy(model(x), y).item() for x, y in batches))
    assert losses[1] < 0.5 * losses[0]


@pytest.fixture
def by_class(tmp_path: Path) -> Path:
    """A folder of four classes of 20 images, as a file system lists it: one class after the other."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 4), ("test", 4)):
        for label, name in enumerate("abcd"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 128, (32, 32, 3), dtype=np.uint8)
                pixels[:, 8 * label : 8 * label + 8] += 100
                Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return tmp_path / "data"


def test_images_that_are_sorted_by_class_are_looked_at_evenly(
    bench: Bench, by_class: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = bench(task=str(by_class), sensitivity=SMALL | {"batches": 4})
    assert set(it.task.views["train"].targets[:16]) == {0}  # the first batches in order are of one class
    ((_, batches),) = seen(monkeypatch, it)
    labels = torch.cat([labels for _, labels in batches])
    assert labels.bincount().tolist() == [4, 4, 4, 4]
    assert labels.tolist() != sorted(labels.tolist())
    assert [len(labels) for _, labels in batches] == [4, 4, 4, 4]


def test_the_sample_is_drawn_by_the_seed(bench: Bench, by_class: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def images(seed: int) -> torch.Tensor:
        ((_, batches),) = seen(monkeypatch, bench(task=str(by_class), sensitivity=SMALL, seed=seed))
        return torch.cat([images for images, _ in batches])

    assert torch.equal(images(0), images(0))
    assert not torch.equal(images(0), images(1))


def test_a_task_of_fewer_images_is_looked_at_whole(
    bench: Bench, by_class: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((_, batches),) = seen(monkeypatch, bench(task=str(by_class), sensitivity={"batches": 99, "batch_size": 32}))
    assert [len(labels) for _, labels in batches] == [32, 32, 16]
