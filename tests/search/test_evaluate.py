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
from petlas.errors import UserError
from petlas.petl import AdapterError, apply, load_adapter, load_backbone, read_adapter_info, save_adapter
from petlas.petl.design import Design
from petlas.search.cli.output import print_json
from petlas.search.given import Given
from petlas.search.stages.training_run import TrainingRun
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

pytestmark = pytest.mark.usefixtures("some_digits")

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
    monkeypatch.setattr(
        "petlas.search.given.open_task", lambda *args, **more: replace(task, classes=names, views=views)
    )
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


@pytest.fixture(scope="module")
def levels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An adapter of dark and bright images of 12 bits in 16, and their folder."""
    folder = tmp_path_factory.mktemp("levels")
    for name, level in (("bright", 3900), ("dark", 200)):
        for part in ("train", "val", "test"):
            (folder / "data" / part / name).mkdir(parents=True)
            for number in range(6):
                pixels = np.full((8, 8), level + number, np.uint16)
                Image.fromarray(pixels).save(folder / "data" / part / name / f"{number}.png")
    model = apply(load_backbone("vit_mini_patch16_64", num_classes=2, img_size=32), Design(()))
    task = open_task(str(folder / "data"), value_range=(0, 4095))
    about = {"name": "levels", "fingerprint": task.fingerprint, "value_range": "[0.0, 4095.0]"}
    path = folder / "adapter.safetensors"
    save_adapter(model, path, classes=("bright", "dark"), task=about)
    return path, folder / "data"


def test_a_task_of_16_bits_is_read_with_the_range_of_the_training_images(levels: tuple[Path, Path]) -> None:
    adapter, data = levels
    found = evaluate(adapter, str(data))
    assert (found.images, found.notes) == (12, ())  # and no warning that its images may have been learned from
    wanted = import_module("petlas.search.predict").predict(adapter, [data / "test"])
    rows = found.assessment.confusion
    assert rows is not None
    assert [sum(column) for column in zip(*rows, strict=True)] == [
        sum(p.label == name for p in wanted) for name in ("bright", "dark")
    ]
    images = import_module("petlas.search.export").task_images(str(data), None, adapter)
    box = read_adapter_info(adapter).input
    shades = (images * torch.tensor(box.std).view(3, 1, 1) + torch.tensor(box.mean).view(3, 1, 1)).unique()
    assert shades.min().item() == pytest.approx(200 / 4095, abs=0.01)
    assert shades.max().item() == pytest.approx(3905 / 4095, abs=0.01)
    plane = import_module("petlas.search.tsne").tsne(adapter, str(data), images=12)
    assert len(plane.labels) == 12


def test_a_range_that_the_adapter_does_not_know_can_be_given(levels: tuple[Path, Path], tmp_path: Path) -> None:
    adapter, data = levels
    plain = tmp_path / "plain.safetensors"
    save_adapter(load_adapter(adapter), plain, classes=("bright", "dark"), task={"name": "levels"})
    image, predicted = data / "test/dark/0.png", import_module("petlas.search.predict").predict
    with pytest.raises(DataError, match=r"its white is not known.*to an adapter as --value-range LOW HIGH"):
        evaluate(plain, str(data))
    found = evaluate(plain, str(data), value_range=(0, 4095))
    assert found.assessment.confusion == evaluate(adapter, str(data)).assessment.confusion
    assert predicted(plain, image, value_range=(0, 4095))[0].top5 == predicted(adapter, image)[0].top5
    assert evaluate(plain, image, labels=["dark"], value_range=(0, 4095)).images == 1


def test_images_that_are_given_with_their_labels_are_measured_as_the_task_s(run: TrainingRun, adapter: Path) -> None:
    task, inputs = run.bench.task, run.bench.inputs
    view = task.views["val"].subset(range(12))
    pictures = [view.source.image(int(index)) for index in view.indices]
    numbers, names = view.targets.tolist(), [task.classes[int(target)] for target in view.targets]
    batches = [batch for _, batch in Given(inputs).parts(pictures)]
    pairs = torch.utils.data.TensorDataset(torch.cat(batches), torch.tensor(numbers))
    expected = evaluate(adapter, pictures, labels=names)
    assert (expected.images, expected.view, expected.classes, expected.notes) == (12, "given", task.classes, ())
    said = [p.label for p in import_module("petlas.search.predict").predict(adapter, pictures)]
    assert expected.metrics["accuracy"] == np.mean([a == b for a, b in zip(said, names, strict=True)])
    arrays = [np.asarray(picture) for picture in pictures]
    assert evaluate(adapter, np.stack(arrays), labels=view.targets).to_dict() == expected.to_dict()
    for given in (list(zip(pictures, names, strict=True)), zip(arrays, numbers, strict=True)):
        assert evaluate(adapter, given).to_dict() == expected.to_dict()
    loaded = evaluate(adapter, torch.utils.data.DataLoader(pairs, 5))
    assert loaded.assessment.confusion == expected.assessment.confusion
    assert loaded.metrics == expected.metrics


def test_images_of_several_labels_are_measured_with_lists_of_names_or_rows(tmp_path: Path) -> None:
    model = apply(load_backbone("vit_mini_patch16_64", num_classes=3, img_size=32), Design(()))
    with torch.no_grad():
        model.get_parameter("head.weight").zero_()
        model.get_parameter("head.bias").copy_(torch.tensor([2.0, 1.0, -3.0]))
    save_adapter(model, tmp_path / "a.safetensors", classes="abc", kind="multi_label")
    images = [Image.new("RGB", (8, 8))] * 4
    found = evaluate(tmp_path / "a.safetensors", images, labels=[["a"], [], ("a", "b"), {"a"}])
    assert [row["recall"] for row in found.assessment.per_class] == [1, 1, None]
    assert [row["precision"] for row in found.assessment.per_class] == [0.75, 0.25, None]
    rows = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 0, 0]])
    assert evaluate(tmp_path / "a.safetensors", images, labels=rows).to_dict() == found.to_dict()


def test_labels_that_do_not_fit_are_told(adapter: Path) -> None:
    image, other = Image.new("L", (8, 8)), {"root": Path("/")}
    for given, labels, more, text in (
        ([image], ["eleven"], {}, "must name one of the 10 classes, got 'eleven'"),
        ([image], [10], {}, r"must be 0\.\.9 or a class's name, got 10"),
        ([image], [0.5], {}, "name or its number, got a float: 0.5"),
        ([image, image], [1], {}, "one label for each of one or more images, got 1 for 2"),
        ([], [], {}, "one or more images, got 0 for 0"),
        ([image], None, {}, r"with labels=\[...\], or as pairs of images and labels, got a Image as number 0"),
        ([image], [1], other, "root, view and split_seed say which images of a task"),
    ):
        with pytest.raises(UserError, match=text):
            evaluate(adapter, given, labels=labels, **more)
