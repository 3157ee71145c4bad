import json
import logging
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from petlas.datasets import DataError, open_task
from petlas.petl import AdapterError, apply, load_backbone, save_adapter
from petlas.petl.design import Design
from petlas.search.cli.output import print_json
from petlas.search.stages.training_run import TrainingRun
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

module = import_module("petlas.search.evaluate")  # as an attribute of the package it is the call
evaluate = module.evaluate


@pytest.fixture
def run(bench: Callable[..., Workbench], lora: Callable[..., Design]) -> TrainingRun:
    run = TrainingRun(bench(), Candidate(lora(b0=1)), Fidelity(1, 0))
    run.train_epoch()
    return run


@pytest.fixture
def adapter(run: TrainingRun, tmp_path: Path) -> Path:
    bench, path = run.bench, tmp_path / "adapter.safetensors"
    save_adapter(run.model, path, classes=bench.task.classes, task=bench.about_task, input=bench.inputs)
    return path


def test_an_adapter_is_as_good_as_its_training_said(
    run: TrainingRun, adapter: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "petlas")
    found = evaluate(adapter, "digits")
    test = run.bench.task.views["test"]
    assert found.metrics["accuracy"] == run.test()
    assert (found.view, found.images, found.notes) == ("test", len(test), ())
    assert "reading the test view of task digits" in caplog.text
    confusion = np.array(found.assessment.confusion)
    assert np.array_equal(confusion.sum(1), np.bincount(test.targets))
    assert confusion.trace() / confusion.sum() == pytest.approx(found.metrics["accuracy"])
    shares = [row["accuracy"] for row in found.assessment.per_class]
    assert found.metrics["mean_per_class"] == pytest.approx(np.mean(shares))
    assert found.errors["accuracy"] == pytest.approx(
        (found.metrics["accuracy"] * (1 - found.metrics["accuracy"]) / len(test)) ** 0.5
    )
    assert sum(found_bin.count for found_bin in found.assessment.calibration.bins) == len(test)
    print_json(found.to_dict())
    data = json.loads(capsys.readouterr().out)
    assert data["confusion"] == found.assessment.confusion
    assert data["calibration"]["ece"] == found.assessment.calibration.ece


def test_images_that_were_learned_from_are_said_to_be_no_test(adapter: Path) -> None:
    (note,) = evaluate(adapter, "digits", view="val").notes
    assert "its val images are no test of it" in note


def test_classes_are_told_by_their_names_whatever_their_order(
    run: TrainingRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, path = run.bench, tmp_path / "adapter.safetensors"
    save_adapter(run.model, path, classes=bench.task.classes, input=bench.inputs)
    task = open_task("digits")
    turned = np.roll(np.arange(10), 3)  # class i of the task is the adapter's turned[i]
    names = tuple(task.classes[i] for i in turned)
    views = {name: replace(view, targets=np.argsort(turned)[view.targets]) for name, view in task.views.items()}
    views["val"], views["trainval"] = (replace(views[v], source=views["train"].source) for v in ("val", "trainval"))
    monkeypatch.setattr(module, "open_task", lambda *args, **more: replace(task, classes=names, views=views))
    other = evaluate(path, "digits")
    assert other.classes == names
    monkeypatch.undo()
    assert other.metrics["accuracy"] == evaluate(path, "digits").metrics["accuracy"]


def test_other_classes_or_another_kind_of_task_are_refused_by_name(run: TrainingRun, tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    save_adapter(run.model, path, classes=("0", "1", "2", "3", "4", "5", "6", "7", "8", "nine"))
    with pytest.raises(AdapterError, match=r"lacks 9 and has nine; give a task with the same 10 classes"):
        evaluate(path, "digits")
    save_adapter(run.model, path, classes=open_task("digits").classes, kind="multi_label")
    with pytest.raises(AdapterError, match="is for multi_label tasks, and task digits is single_label"):
        evaluate(path, "digits")


def test_an_unknown_view_is_refused(adapter: Path) -> None:
    with pytest.raises(DataError, match="one of train, val, trainval, test, got 'all'"):
        evaluate(adapter, "digits", view="all")


def test_a_random_split_that_is_not_the_adapter_s_is_told(tmp_path: Path) -> None:
    colours = {"blue": (0, 0, 200), "red": (200, 0, 0)}
    for name, colour in colours.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (8, 8), (*colour[:1], index, *colour[2:])).save(tmp_path / "data" / name / f"{index}.png")
    model = apply(load_backbone("vit_mini_patch16_64", num_classes=2, img_size=32), Design(()))
    with torch.no_grad():
        model.get_parameter("head.bias").copy_(torch.tensor([1.0, -1.0]))
        model.get_parameter("head.weight").zero_()
    task = open_task(str(tmp_path / "data"))
    path = tmp_path / "adapter.safetensors"
    save_adapter(model, path, classes=("blue", "red"), task={"fingerprint": task.fingerprint})
    assert not any("at random" in note for note in evaluate(path, str(tmp_path / "data")).notes)
    other = evaluate(path, str(tmp_path / "data"), split_seed=5)
    assert any("may have learned from these images" in note for note in other.notes)
    assert other.metrics["accuracy"] == other.metrics["mean_per_class"] == 0.5
    assert other.assessment.per_class[1]["taken_for"] == "blue"
    assert other.assessment.per_class[1]["precision"] is None
