import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petlas.datasets import DataError, open_task

Make = Callable[[str], Path]
Draw = Callable[..., Path]


def test_what_was_saved_is_read(sample: Make) -> None:
    task = open_task(str(sample("huggingface")))
    assert task.classes == ("cat", "dog")
    assert {name: len(view) for name, view in task.views.items()} == {"train": 6, "val": 2, "trainval": 8, "test": 4}
    assert task.views["test"].targets.tolist() == [0, 1, 0, 1]
    assert (
        task.views["test"]
        .source.place(3)
        .endswith("sample row 3 of test/data-00000-of-00002.arrow, test/data-00001-of-00002.arrow")
    )


def test_rows_keep_their_pictures_and_labels(sample: Make, draw: Draw, tmp_path: Path) -> None:
    """Number n was drawn with seed n and labelled n % 2, in train's 0 to 7 and test's 8 to 11."""
    task = open_task(str(sample("huggingface")), split_seed=3)
    for view, first in (("train", 0), ("val", 0), ("test", 8)):
        held = task.views[view]
        for index, target in zip(held.indices, held.targets, strict=True):
            number = int(held.source.name(int(index)).removeprefix("row ")) + first
            drawn = np.asarray(Image.open(draw(tmp_path / "again.png", number)))
            assert np.array_equal(np.asarray(held.source.image(int(index))), drawn)
            assert target == number % 2


def test_a_validation_split_is_val_and_one_data_set_alone_is_split(sample: Make) -> None:
    folder = sample("huggingface")
    (folder / "test").rename(folder / "validation")
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}))
    task = open_task(str(folder))
    assert {name: len(view) for name, view in task.views.items()} == {"train": 6, "val": 4, "trainval": 10, "test": 2}
    assert task.views["val"].targets.tolist() == [0, 1, 0, 1]
    assert [task.views["val"].source.name(int(i)) for i in task.views["val"].indices] == [
        f"row {n}" for n in range(8, 12)
    ]
    alone = open_task(str(folder / "train"))
    assert sum(len(alone.views[view]) for view in ("train", "val", "test")) == 8


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("dataset_dict.json", '"test"', '"extra"', "splits must be one each of train, val"),
        ("dataset_dict.json", '"train", ', "", "there must be a split train"),
        (
            "train/dataset_info.json",
            "ClassLabel",
            "Value",
            "one column of images and one of labels .a ClassLabel.",
        ),
        ("train/dataset_info.json", ', "dog"', "", "train row 1: label 1 is out of range 0..0; remove the split or"),
        ("train/state.json", "_data_files", "_files", "state.json: it names no data files; save the data again"),
        ("train/state.json", "{", '{"_indices_data_files": [1], ', "rows are chosen by an index"),
        ("train/state.json", "00000-of", "00009-of", "00009-of-00001.arrow: the Arrow file cannot be read"),
        ("train/state.json", "}", "", "state.json: the file must be readable JSON"),
    ],
)
def test_a_damaged_copy_is_told_in_one_line(file: str, old: str, new: str, told: str, sample: Make) -> None:
    path = sample("huggingface") / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=told) as caught:
        open_task(str(path.parent.parent if "/" in file else path.parent))
    assert "\n" not in str(caught.value)


def test_a_cut_arrow_file_and_pictures_kept_elsewhere_are_told(sample: Make) -> None:
    folder = sample("huggingface")
    file = folder / "test/data-00001-of-00002.arrow"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=r"data-00001-of-00002.arrow: the Arrow file cannot be read \("):
        open_task(str(folder))
