from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from petlas.datasets import DataError, open_task
from petlas.petl.adapter_file import AdapterError, save_adapter
from petlas.petl.design import Design
from petlas.search import predict as predict_module
from petlas.search.config import RunConfig
from petlas.search.predict import predict
from petlas.search.training import TrainingRun, load_split, pick_device

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture
def run(make: Callable[..., RunConfig], lora: Callable[..., Design]) -> TrainingRun:
    """A model whose head is not quite at its start."""
    run = TrainingRun(make(), lora(b0=1), seed=0)
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
    split = open_task("digits").splits["val"]
    paths = [tmp_path / f"{index}.png" for index in range(7)]
    for index, path in enumerate(paths):
        split.source.image(index).save(path)
    return paths


@pytest.mark.parametrize("batch", [256, 3])
def test_images_are_labelled_as_the_trained_model_labels_the_decoded_split(
    run: TrainingRun, adapter: Path, images: list[Path], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_module, "EVAL_BATCH", batch)
    data = load_split(run.config, open_task("digits"), "val", run.inputs, pick_device())
    with torch.no_grad():
        shares = run.model.eval()(data.batch(slice(0, 7))[0]).softmax(1).numpy()
    found = predict(adapter, images)
    assert [p.image for p in found] == [str(path) for path in images]
    for prediction, expected in zip(found, shares, strict=True):
        order = np.argsort(-expected)[:5]
        assert [label for label, _ in prediction.top5] == [CLASSES[i] for i in order]
        np.testing.assert_allclose([value for _, value in prediction.top5], expected[order], rtol=1e-4)
        assert (prediction.label, prediction.confidence) == prediction.top5[0]


def test_with_few_classes_all_are_listed(make: Callable[..., RunConfig], tmp_path: Path, images: list[Path]) -> None:
    from petlas.petl import apply, load_backbone

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
