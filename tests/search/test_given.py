from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from petlas.datasets import ArraySource, DataError, open_store
from petlas.petl import InputConfig
from petlas.search.given import Given, files_in


def test_batches_keep_the_order_and_stand_on_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("petlas.search.given.EVAL_BATCH", 2)
    Image.new("RGB", (5, 3), "white").save(tmp_path / "white.png")
    grey = np.full((7, 2), 51, np.uint8)
    ready = torch.full((2, 3, 4, 4), 9.0)
    items = [tmp_path / "white.png", grey, Image.new("L", (9, 9), 255), (ready, torch.zeros(2)), grey]
    parts = list(Given(InputConfig(4, (0.0,) * 3, (1.0,) * 3, "bicubic")).parts(items))
    assert [names for names, _ in parts] == [[str(tmp_path / "white.png"), "1"], ["2"], ["3", "4"], ["5"]]
    assert torch.cat([batch for _, batch in parts])[:, 0, 0, 0].tolist() == pytest.approx([1, 0.2, 1, 9, 9, 0.2])


def test_images_are_cropped_as_those_of_training(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 20, 33, 3), dtype=np.uint8)
    inputs = InputConfig(8, (0.0,) * 3, (1.0,) * 3, "bicubic", 0.9)
    ((_, batch),) = Given(inputs).parts([Image.fromarray(pixels[0])])
    learned = open_store(ArraySource(pixels), 8, tmp_path, crop=0.9)
    assert torch.equal(batch, torch.from_numpy(np.array(learned)).float() / 255)


def test_a_folder_gives_its_images_at_any_depth_by_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/2.PNG", "a.jpg", "b/1.png", ".hidden.png", "c.txt"):
        (tmp_path / name).touch()
    assert files_in(tmp_path) == [tmp_path / "a.jpg", tmp_path / "b/1.png", tmp_path / "b/2.PNG"]
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="a folder must hold images"):
        files_in(tmp_path / "none")
