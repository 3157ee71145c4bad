from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from petlas.datasets.folder import is_image_folder, open_folder
from petlas.datasets.sources import FileSource
from petlas.datasets.task import DataError, Task

Draw = Callable[..., Path]


@pytest.fixture
def flat(tmp_path: Path, draw: Draw) -> Path:
    """30 cats and 20 dogs in two class folders."""
    for name, count in (("dog", 20), ("cat", 30)):
        for number in range(count):
            draw(tmp_path / f"pets/{name}/{number:02}.png", number)
    return tmp_path / "pets"


@pytest.fixture
def parted(tmp_path: Path, draw: Draw) -> Path:
    """train, val and test folders of 10, 4 and 2 images in two classes."""
    for part, count in (("train", 5), ("val", 2), ("test", 1)):
        for name in ("cat", "dog"):
            for number in range(count):
                draw(tmp_path / f"pets/{part}/{name}/{number:02}.png", number)
    return tmp_path / "pets"


def names(task: Task, split: str) -> set[str]:
    source = task.splits[split].source
    assert isinstance(source, FileSource)
    return set(source.names)


def test_class_folders_alone_are_split_by_fifths(flat: Path) -> None:
    task = open_folder(flat)
    assert task.name == "pets"
    assert task.classes == ("cat", "dog")
    counts = {name: np.bincount(split.labels).tolist() for name, split in task.splits.items()}
    assert counts == {"train": [19, 13], "val": [5, 3], "trainval": [24, 16], "test": [6, 4]}
    assert names(task, "train") | names(task, "val") == names(task, "trainval")
    assert not names(task, "train") & names(task, "val")
    assert not names(task, "trainval") & names(task, "test")
    for split in task.splits.values():
        expected = [{"cat": 0, "dog": 1}[name.split("/")[0]] for name in split.source.names]  # type: ignore[attr-defined]
        assert split.labels.tolist() == expected


def test_the_seed_decides_what_is_set_aside(flat: Path) -> None:
    first, again, other = open_folder(flat, 1), open_folder(flat, 1), open_folder(flat, 2)
    for split in ("val", "test"):
        assert names(first, split) == names(again, split) != names(other, split)


def test_folders_of_splits_are_taken_as_they_are(parted: Path) -> None:
    task = open_folder(parted)
    assert {name: len(split) for name, split in task.splits.items()} == {
        "train": 10, "val": 4, "trainval": 14, "test": 2,
    }  # fmt: skip
    assert all(name.startswith("test/") for name in names(task, "test"))


@pytest.mark.parametrize(("missing", "other"), [("val", "test"), ("test", "val")])
def test_a_missing_split_is_a_fifth_of_train(parted: Path, missing: str, other: str) -> None:
    kept = names(open_folder(parted), other)
    (parted / missing).rename(parted.parent / "away")
    task = open_folder(parted)
    assert len(task.splits[missing]) == 2
    assert len(task.splits["train"]) == 8
    assert names(task, missing) <= {f"train/{c}/{i:02}.png" for c in ("cat", "dog") for i in range(5)}
    assert names(task, other) == kept


def test_nested_images_and_every_extension_count_and_hidden_files_do_not(flat: Path, draw: Draw) -> None:
    for number, suffix in enumerate(("JPG", "jpeg", "bmp", "WebP", "gif", "tif", "tiff")):
        draw(flat / f"cat/deep/deeper/x{number}.{suffix}")
    for other in ("cat/._00.png", "cat/.DS_Store", "cat/notes.txt"):
        (flat / other).write_text("not an image")
    task = open_folder(flat)
    cats = sum(int((task.splits[split].labels == 0).sum()) for split in ("trainval", "test"))
    assert cats == 37
    for split in ("trainval", "test"):
        for index in range(len(task.splits[split])):
            task.splits[split].source.image(index)


def test_a_class_may_be_called_train(flat: Path) -> None:
    (flat / "dog").rename(flat / "train")
    assert open_folder(flat).classes == ("cat", "train")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("val/cat", "val/lion", r"pets/val: .* it has the extra class 'lion'"),
        ("test/cat", "away", r"pets/test: .* it lacks the class 'cat'"),
        ("val", "validation", r"pets/validation: next to train there may be val and test"),
    ],
)
def test_folders_that_disagree_are_refused(parted: Path, old: str, new: str, fault: str) -> None:
    (parted / old).rename(parted / new if new != "away" else parted.parent / "away")
    with pytest.raises(DataError, match=fault):
        open_folder(parted)


def test_an_empty_class_folder_is_refused(flat: Path) -> None:
    (flat / "lion").mkdir()
    with pytest.raises(DataError, match="lion: the class folder holds no image"):
        open_folder(flat)


def test_a_folder_without_classes_is_refused(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "loose/a.png")
    with pytest.raises(DataError, match="no class folders with images"):
        open_folder(tmp_path / "loose")
    draw(tmp_path / "unclassed/train/a.png")
    with pytest.raises(DataError, match="train must hold class folders"):
        open_folder(tmp_path / "unclassed")


def test_too_few_images_to_set_any_aside_are_refused(tmp_path: Path, draw: Draw) -> None:
    for name in "ab":
        draw(tmp_path / f"few/{name}/x.png")
    with pytest.raises(DataError, match="too few images to set test aside"):
        open_folder(tmp_path / "few")


def test_a_folder_of_data_sets_is_no_class_folder(flat: Path, vtab: Path) -> None:
    assert is_image_folder(flat)
    assert not is_image_folder(vtab.parent)
    with pytest.raises(DataError, match="holds data sets such as shapes"):
        open_folder(vtab.parent)
