import logging
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from petlas.datasets import DataError, FileSource, Task, View, open_task
from petlas.petl import AdapterError, apply, load_backbone, read_adapter_info, save_adapter
from petlas.petl.design import Design
from petlas.search.given import Given
from petlas.search.predict import outputs, predict
from petlas.search.stages.training_run import TrainingRun
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

pytestmark = pytest.mark.usefixtures("some_digits")

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
    monkeypatch.setattr("petlas.search.given.EVAL_BATCH", batch)
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
    with pytest.raises(DataError, match=r"a folder must hold images, and .*runs has none"):
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


def test_images_in_any_form_are_labelled_alike(adapter: Path, images: list[Path], tmp_path: Path) -> None:
    expected = [(p.label, p.confidence) for p in predict(adapter, images)]
    opened = [Image.open(path) for path in images]
    arrays = [np.asarray(image) for image in opened]
    size = read_adapter_info(adapter).input.size
    batches = [batch for _, batch in Given(read_adapter_info(adapter).input).parts(images)]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.cat(batches), torch.zeros(7)), 7)
    assert batches[0].shape[1:] == (3, size, size)
    for given in (opened, arrays, np.stack(arrays), loader, batches, iter(opened), [opened[0], *images[1:]]):
        found = predict(adapter, given)
        assert [p.label for p in found] == [label for label, _ in expected]
        assert [p.confidence for p in found] == pytest.approx([share for _, share in expected], abs=1e-6)
    assert [p.image for p in predict(adapter, arrays)] == [str(number) for number in range(7)]
    for one in (images[0], str(images[0]), opened[0], arrays[0]):
        assert [p.label for p in predict(adapter, one)] == [expected[0][0]]
    folder = tmp_path / "deep/er"
    folder.mkdir(parents=True)
    for path in images[:2]:
        path.rename(folder / path.name)
    (folder / "notes.txt").touch()
    found = predict(adapter, tmp_path / "deep")
    assert [p.image for p in found] == [str(folder / "0.png"), str(folder / "1.png")]
    assert [p.label for p in found] == [label for label, _ in expected[:2]]


def test_an_adapter_of_half_precision_labels_images(tmp_path: Path, images: list[Path]) -> None:
    model = load_backbone("vit_mini_patch16_64", num_classes=2, img_size=32).bfloat16()
    save_adapter(apply(model, Design(())), tmp_path / "half.safetensors", classes=("no", "yes"))
    assert len(predict(tmp_path / "half.safetensors", images)) == 7


def test_grey_arrays_of_16_bits_are_read_as_files_of_them(adapter: Path, tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 2**16, (32, 32), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert predict(adapter, deep)[0].top5 == predict(adapter, tmp_path / "deep.png")[0].top5


def test_what_is_no_image_is_told(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for given, text in (
        ([np.zeros((4, 4, 3))], "uint8 of the shape .*got float64 .4, 4, 3. as number 0"),
        ([np.zeros((4, 4, 4), np.uint8)], "uint8 of the shape"),
        ([None], "got a NoneType as number 0"),
        ([torch.zeros(1, 3, 5, 5)], "normalised images of floats .B, 3, 32, 32., got torch.float32 .1, 3, 5, 5."),
        (tmp_path / "empty", "a folder must hold images"),
    ):
        with pytest.raises(DataError, match=text):
            predict(adapter, given)


def test_what_takes_long_says_how_many_images_are_done(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For all commands that go through images, as a ViT-B takes minutes for them on a CPU."""
    monkeypatch.setattr("petlas.search.waiting.SILENCE", 0.05)
    monkeypatch.setattr(logging.getLogger("petlas"), "propagate", True)
    caplog.set_level(logging.INFO, "petlas")

    def parts() -> Iterator[tuple[list[str], torch.Tensor]]:
        for _ in range(2):
            yield ["a", "b", "c"], torch.zeros(3, 4)
            time.sleep(0.3)

    assert len(list(outputs(torch.nn.Linear(4, 2), parts(), torch.device("cpu")))) == 2
    assert "still at work: 3 images done, after" in caplog.text
