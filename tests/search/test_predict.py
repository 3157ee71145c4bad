from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from petlas.datasets import DataError, FileSource, Task, View, open_task
from petlas.petl import AdapterError, apply, load_backbone, save_adapter
from petlas.petl.design import Design
from petlas.search.predict import predict
from petlas.search.stages.training_run import TrainingRun
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

predict_module = import_module("petlas.search.predict")  # as an attribute of the package it is the call
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture
def run(bench: Callable[..., Workbench], lora: Callable[..., Design]) -> TrainingRun:
    """A model whose head is not quite at its start."""
    run = TrainingRun(bench(), Candidate(lora(b0=1)), Fidelity(1, 0))
    with torch.no_grad():
        run.model.get_parameter("head.weight").mul_(20)
    return run


@pytest.fixture
def adapter(run: TrainingRun, tmp_path: Path) -> Path:
    path = tmp_path / "adapter.safetensors"
    save_adapter(run.model, path, classes=CLASSES)
    return path


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """The first images of the selection split as files."""
    view = open_task("digits").views["val"]
    paths = [tmp_path / f"{index}.png" for index in range(7)]
    for index, path in zip(view.indices, paths, strict=False):
        view.source.image(int(index)).save(path)
    return paths


@pytest.mark.parametrize("batch", [256, 3])
def test_images_are_labelled_as_the_trained_model_labels_the_decoded_view(
    run: TrainingRun, adapter: Path, images: list[Path], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_module, "EVAL_BATCH", batch)
    data = run.bench.batches(open_task("digits").views["val"])
    with torch.no_grad():
        shares = run.model.eval()(data.batch(slice(0, 7))[0]).softmax(1).numpy()
    found = predict(adapter, images)
    assert [p.image for p in found] == [str(path) for path in images]
    for prediction, expected in zip(found, shares, strict=True):
        order = np.argsort(-expected)[:5]
        assert [label for label, _ in prediction.top5] == [CLASSES[i] for i in order]
        np.testing.assert_allclose([value for _, value in prediction.top5], expected[order], rtol=1e-4)
        assert (prediction.label, prediction.confidence) == prediction.top5[0]


def test_with_few_classes_all_are_listed(tmp_path: Path, images: list[Path]) -> None:
    model = apply(load_backbone("vit_mini_patch16_64", num_classes=2), Design((), "vit_mini_patch16_64"))
    save_adapter(model, tmp_path / "two.safetensors", classes=("no", "yes"))
    (prediction,) = predict(tmp_path / "two.safetensors", images[:1])
    assert {label for label, _ in prediction.top5} == {"no", "yes"}
    assert sum(value for _, value in prediction.top5) == pytest.approx(1)


def test_images_of_any_size_and_mode_are_read(adapter: Path, tmp_path: Path) -> None:
    for name, mode, size in (("a.png", "RGBA", (5, 40)), ("b.jpg", "L", (33, 7)), ("c.png", "P", (16, 16))):
        Image.new(mode, size).save(tmp_path / name)
    assert len(predict(adapter, [tmp_path / "a.png", tmp_path / "b.jpg", tmp_path / "c.png"])) == 3


def test_what_is_no_image_or_no_adapter_is_refused(adapter: Path, tmp_path: Path, images: list[Path]) -> None:
    (tmp_path / "text.png").write_text("no image")
    for path in (tmp_path / "text.png", tmp_path / "missing.png"):
        with pytest.raises(DataError, match=path.name):
            predict(adapter, [path])
    for path in (tmp_path / "text.png", tmp_path / "missing.safetensors"):
        with pytest.raises(AdapterError, match=path.name):
            predict(path, images)


def test_images_of_several_labels_get_all_that_are_more_likely_than_not(tmp_path: Path, images: list[Path]) -> None:
    model = apply(load_backbone("vit_mini_patch16_64", num_classes=4), Design((), "vit_mini_patch16_64"))
    file = tmp_path / "several.safetensors"
    with torch.no_grad():
        model.get_parameter("head.weight").zero_()
        model.get_parameter("head.bias").copy_(torch.tensor([2.0, -1.0, 3.0, -3.0]))
    save_adapter(model, file, classes="abcd", kind="multi_label")
    (prediction,) = predict(file, images[:1])
    assert prediction.label == "c,a"
    assert prediction.confidence == pytest.approx(1 / (1 + np.exp(-2)), rel=1e-5)
    assert [label for label, _ in prediction.top5] == ["c", "a", "b", "d"]
    with torch.no_grad():
        model.get_parameter("head.bias").sub_(5)
    save_adapter(model, file, classes="abcd", kind="multi_label")
    (prediction,) = predict(file, images[:1])
    assert prediction.label == ""
    assert prediction.confidence == prediction.top5[0][1] < 0.5


def test_a_folder_in_place_of_a_file_is_told_and_the_file_that_is_meant(
    adapter: Path, tmp_path: Path, images: list[Path]
) -> None:
    run_folder = tmp_path / "runs" / "demo"
    (run_folder / "best").mkdir(parents=True)
    with pytest.raises(AdapterError, match=r"demo is a folder; a run has one at best/adapter.safetensors when"):
        predict(run_folder, images)
    meant = run_folder / "best" / "adapter.safetensors"
    meant.write_bytes(adapter.read_bytes())
    for given in (run_folder, run_folder / "best"):
        with pytest.raises(AdapterError, match=f"give {meant}"):
            predict(given, images)
    with pytest.raises(DataError, match="runs is a folder; give the files in it"):
        predict(adapter, [tmp_path / "runs"])


def test_the_weights_are_found_where_the_adapter_file_says_or_where_they_are_given(
    tmp_path: Path, images: list[Path]
) -> None:
    """As printed after a search with a local checkpoint."""
    weights = tmp_path / "weights.safetensors"
    state = load_backbone("vit_tiny_patch16_224", pretrained=False, img_size=32).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, str(weights))
    model = load_backbone("vit_tiny_patch16_224", weights, num_classes=2, img_size=32)
    save_adapter(apply(model, Design(())), tmp_path / "a.safetensors", classes="ab")
    expected = predict(tmp_path / "a.safetensors", images[:2])
    moved = weights.rename(tmp_path / "elsewhere.safetensors")
    assert predict(tmp_path / "a.safetensors", images[:2], str(moved)) == expected


def test_deep_images_are_read_with_the_range_of_the_training_images(run: TrainingRun, tmp_path: Path) -> None:
    """Black and white of 12 bits in 16 are not what the file's type says."""
    source = FileSource(tmp_path, ("deep.png",), value_range=(0.0, 4095.0))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "flat.png")
    Image.fromarray((pixels.astype(np.uint32) * 4095 // 255).astype(np.uint16)).save(tmp_path / "deep.png")
    views = {name: View(source, [0], [0]) for name in ("train", "val", "trainval")}
    test = View.whole(FileSource(tmp_path, ("flat.png",)), [0])
    bench = Workbench(run.bench.config)
    bench.task = Task("deep", CLASSES, "single_label", views | {"test": test}, "folder")
    file = tmp_path / "a.safetensors"
    save_adapter(run.model, file, classes=CLASSES, task=bench.about_task)
    deep, flat = (predict(file, [tmp_path / name])[0] for name in ("deep.png", "flat.png"))
    assert deep.label == flat.label
    assert deep.confidence == pytest.approx(flat.confidence, abs=0.01)
    save_adapter(run.model, file, classes=CLASSES)
    with pytest.raises(DataError, match=r"deep\.png"):
        predict(file, [tmp_path / "deep.png"])
