from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from petlas.datasets.errors import DataError
from petlas.datasets.sources import ArraySource, FileSource

Draw = Callable[..., Path]


def test_files_are_fingerprinted_by_content_and_order_not_by_name(tmp_path: Path, draw: Draw) -> None:
    for folder, names in (("one", "ab"), ("two", "xy")):
        for seed, name in enumerate(names):
            draw(tmp_path / folder / f"{name}.png", seed)
    one = FileSource(tmp_path / "one", ("a.png", "b.png")).fingerprint()
    assert one == FileSource(tmp_path / "two", ("x.png", "y.png")).fingerprint()
    assert one != FileSource(tmp_path / "one", ("b.png", "a.png")).fingerprint()
    assert one != FileSource(tmp_path / "one", ("a.png",)).fingerprint()


def test_an_array_is_fingerprinted_by_its_pixels_and_shape() -> None:
    grey = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    first = ArraySource(grey).fingerprint()
    assert first == ArraySource(grey.copy()).fingerprint()
    assert first != ArraySource(grey[::-1]).fingerprint()
    assert first != ArraySource(grey.reshape(2, 2, 8)).fingerprint()


def test_a_broken_image_is_named_with_its_list_and_line(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_text("broken")
    with pytest.raises(DataError, match=r"b\.png \(train800\.txt line 2\): the image cannot be read"):
        FileSource(tmp_path, ("a.png", "b.png"), ("train800.txt line 1", "train800.txt line 2")).image(1)
    with pytest.raises(DataError, match=r"b\.png: the image cannot be read"):
        FileSource(tmp_path, ("b.png",)).image(0)
