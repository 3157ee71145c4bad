from collections.abc import Callable
from pathlib import Path

import pytest

from petlas.datasets import DataError, open_task

Make = Callable[[str], Path]
Draw = Callable[..., Path]


def test_the_split_and_the_names_are_those_of_the_lists(sample: Make) -> None:
    task = open_task(str(sample("cub")))
    assert task.classes == ("Black cat", "Black dog")  # the third has no image
    assert {name: len(view) for name, view in task.views.items()} == {"train": 6, "val": 2, "trainval": 8, "test": 4}
    assert task.views["test"].source.name(0) == "images/001.Black_cat/8.png"
    assert task.views["test"].targets.tolist() == [0, 1, 0, 1]
    assert task.split_seed == 0


def test_classes_that_share_a_name_are_told_apart(sample: Make) -> None:
    """NABirds calls many of its 555 classes alike."""
    folder = sample("cub")
    (folder / "classes.txt").write_text("1 Oak Titmouse\n2 Oak Titmouse\n")
    assert open_task(str(folder)).classes == ("Oak Titmouse (1)", "Oak Titmouse (2)")


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("images.txt", "3 001", "3001", "images.txt line 3: expected `ID PATH`, got '3001.Black_cat/2.png'"),
        (
            "image_class_labels.txt",
            "3 1\n",
            "",
            "image_class_labels.txt: 1 images of images.txt are not in it",
        ),
        ("train_test_split.txt", "3 1\n", "3 2\n", "an image is 1 .train. or 0 .test., got '2'"),
        ("images.txt", "cat/2.png", "cat/4.png", "images.txt line 5: images/001.Black_cat/4.png|does not exist"),
    ],
)
def test_a_damaged_copy_is_told_in_one_line(file: str, old: str, new: str, told: str, sample: Make) -> None:
    path = sample("cub") / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    if file == "images.txt" and "png" in old:
        (path.parent / "images/001.Black_cat/4.png").unlink()
    with pytest.raises(DataError, match=told):
        open_task(str(path.parent))


def test_a_missing_split_is_named(sample: Make) -> None:
    folder = sample("cub")
    (folder / "train_test_split.txt").unlink()
    with pytest.raises(DataError, match=r"train_test_split.txt: the list is missing; images.txt, image_cl"):
        open_task(str(folder))
