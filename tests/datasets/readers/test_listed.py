from collections.abc import Callable
from pathlib import Path

import pytest

from petlas.datasets import DataError, open_task
from petlas.datasets.lists import ImageList
from petlas.datasets.readers.base import ReadOptions
from petlas.datasets.readers.listed import listed_task, readable

Make = Callable[[str], Path]
Draw = Callable[..., Path]


@pytest.mark.parametrize(("layout", "share"), [("cub", 0.01), ("table", 0.0)])
def test_a_published_list_may_repeat_a_few_pictures_and_a_table_may_not(
    layout: str, share: float, sample: Make
) -> None:
    assert open_task(str(sample(layout))).tolerated_overlap == share


@pytest.mark.parametrize(
    ("folder", "name"),
    [("001.Black_footed_Albatross", "Black footed Albatross"), ("n02085620-Chihuahua", "Chihuahua"), ("0817", "0817")],
)
def test_classes_are_named_readably(folder: str, name: str) -> None:
    assert readable(folder) == name


def test_numbers_are_ordered_as_numbers(tmp_path: Path, draw: Draw) -> None:
    names = tuple(draw(tmp_path / f"{n}.png", n).name for n in range(12))
    entries = ImageList(tmp_path / "list", names, tuple(str(9 + n % 3) for n in range(12)))
    task = listed_task(tmp_path, "table", {"train": entries}, ReadOptions())
    assert task.classes == ("class 9", "class 10", "class 11")
    assert len(task.views["test"]) == 2 + 1


def test_too_few_images_are_told(tmp_path: Path, draw: Draw) -> None:
    names = tuple(draw(tmp_path / f"{n}.png", n).name for n in range(2))
    entries = ImageList(tmp_path / "list", names, ("a", "b"))
    with pytest.raises(DataError, match=r"too few images to set test aside: a class needs three images"):
        listed_task(tmp_path, "table", {"train": entries}, ReadOptions())
