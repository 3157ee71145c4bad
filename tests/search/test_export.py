from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch

from petlas.datasets import open_task
from petlas.petl import AdapterError, save_adapter
from petlas.petl.design import Design
from petlas.search.stages.training_run import TrainingRun
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

pytestmark = pytest.mark.usefixtures("some_digits")

module = import_module("petlas.search.export")  # as an attribute of the package it is the call


@pytest.fixture
def run(bench: Callable[..., Workbench], lora: Callable[..., Design]) -> TrainingRun:
    return TrainingRun(bench(), Candidate(lora(b0=1)), Fidelity(1, 0))


@pytest.fixture
def adapter(run: TrainingRun, tmp_path: Path) -> Path:
    save_adapter(run.model, tmp_path / "adapter.safetensors")
    return tmp_path / "adapter.safetensors"


def test_training_images_of_the_task_are_compared_as_they_are_trained_on(
    run: TrainingRun, adapter: Path, tmp_path: Path
) -> None:
    done = module.export(adapter, "timm", tmp_path / "out", task="digits")
    assert (done.images, done.source) == (module.IMAGES, "task digits")
    images = module.task_images("digits", None, adapter)
    view = open_task("digits").views["train"].sample(module.IMAGES, seed=0)
    assert torch.equal(images, run.bench.batches(view).batch(slice(None))[0].cpu())


def test_without_a_task_noise_is_compared(adapter: Path, tmp_path: Path) -> None:
    assert module.export(adapter, "torchscript", tmp_path / "model.pt").source == "noise"


def test_a_run_folder_without_an_adapter_is_told_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="when petlas retrain is done"):
        module.export(tmp_path, "timm", tmp_path / "out")
