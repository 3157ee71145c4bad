from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from petlas.datasets import DataError, open_task
from petlas.petl import apply, everywhere, load_backbone, save_adapter
from petlas.search import tsne

pytestmark = pytest.mark.usefixtures("some_digits")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = load_backbone("vit_mini_patch16_64", num_classes=10, img_size=16)
    apply(model, everywhere("lora", model, 2))
    with torch.no_grad():
        for parameter in model.petl.parameters():
            parameter.add_(0.2)
    path = tmp_path_factory.mktemp("tsne") / "adapter.safetensors"
    save_adapter(model, path)
    return path


def test_the_features_that_the_head_reads_are_laid_out_before_and_after(adapter: Path, tmp_path: Path) -> None:
    found = tsne(adapter, "digits", out=tmp_path / "plane.png", images=40, view="val")
    again = tsne(adapter, "digits", images=40, view="val")
    view = open_task("digits").views["val"].sample(40, 0)
    assert found.labels == [str(target) for target in view.targets]
    for which in ("backbone", "design"):
        assert found.points[which].shape == (40, 2)
        assert np.array_equal(found.points[which], again.points[which])
    assert not np.allclose(found.points["backbone"], found.points["design"])
    assert -1 <= (found.silhouette["backbone"] or 0) != found.silhouette["design"]
    row = found.rows()[3]
    assert row["label"] == found.labels[3]
    assert row["design_y"] == float(found.points["design"][3, 1])
    with Image.open(tmp_path / "plane.png") as image:
        assert len(set(image.convert("L").tobytes())) > 20


def test_what_cannot_be_laid_out_is_told(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--view must be one of"):
        tsne(adapter, "digits", view="all")
    with pytest.raises(DataError, match="needs 10 images or more, got 5"):
        tsne(adapter, "digits", images=5)
