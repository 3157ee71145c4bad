from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import csv, parquet

from petlas.datasets import DataError, open_task

Draw = Callable[..., Path]
Make = Callable[[str], Path]
Maker = Callable[[Path, Draw], Path]


def test_the_columns_say_image_label_and_split(sample: Make) -> None:
    task = open_task(str(sample("table")))
    assert task.classes == ("cat", "dog")
    assert {name: len(view) for name, view in task.views.items()} == {"train": 10, "val": 2, "trainval": 12, "test": 4}
    assert task.views["test"].source.place(0).endswith("pictures/my 12.png (labels.csv line 14)")


def test_a_table_is_also_named_by_its_path_and_may_be_parquet(sample: Make) -> None:
    folder = sample("table")
    before = open_task(str(folder))
    assert open_task(str(folder / "labels.csv")).fingerprint == before.fingerprint
    lines = (folder / "labels.csv").read_text().replace(",", "\t")
    (folder / "other.tsv").write_text("\ufeff" + lines.replace("image", "File_Name"), encoding="utf-8")
    assert open_task(str(folder / "other.tsv")).fingerprint == before.fingerprint
    read = csv.read_csv(folder / "labels.csv")
    parquet.write_table(read, folder / "other.parquet")
    assert open_task(str(folder / "other.parquet")).fingerprint == before.fingerprint


def test_a_file_for_each_split_and_labels_as_numbers(sample: Make) -> None:
    folder = sample("table")
    lines = (folder / "labels.csv").read_text().splitlines()[1:]
    (folder / "labels.csv").unlink()
    for part, held in (("train", lines[:8]), ("val", lines[8:12]), ("test", lines[12:])):
        rows = [line.rsplit(",", 1)[0].replace("cat", "10").replace("dog", "9") for line in held]
        (folder / f"{part}.csv").write_text("\n".join(["path;label".replace(";", ","), *rows]))
    task = open_task(str(folder))
    assert task.classes == ("class 9", "class 10")
    assert {name: len(view) for name, view in task.views.items()} == {"train": 8, "val": 4, "trainval": 12, "test": 4}
    assert task.split_seed is None


def test_a_table_beside_class_folders_in_splits_changes_nothing(
    samples: dict[str, Maker], tmp_path: Path, draw: Draw
) -> None:
    for part in ("train", "val", "test"):
        samples["folder"](tmp_path / "data" / part, draw)
    (tmp_path / "data/labels.csv").write_text("image,label\ntrain/cat/0.png,cat\n")
    assert open_task(str(tmp_path / "data")).layout == "folder"
    samples["folder"](tmp_path / "flat", draw)
    (tmp_path / "flat/labels.csv").write_text("weight,height\n1,2\n")
    assert open_task(str(tmp_path / "flat")).layout == "folder"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("image,label", "picture,kind", "labels.csv: the columns are picture, kind, split; needed are an image's"),
        ("my 0.png,cat", "my 0.png,", "labels.csv line 2: label is empty; fill it in or remove the row"),
        ("my 0.png", "my 99.png", "labels.csv line 2: image pictures/my 99.png does not exist"),
        ("my 1.png", "my 0.png", "line 3: pictures/my 0.png has label 'dog' here and 'cat' in line 2; give it one"),
        ("0.png,cat,train", "0.png,cat,extra", "line 2: split must be train, val or test, got 'extra'"),
        ("0.png,cat,train", "0.png,cat,train,1", "labels.csv: the table cannot be read .line 2 has more cells"),
    ],
)
def test_a_damaged_copy_is_told_in_one_line(old: str, new: str, told: str, sample: Make) -> None:
    file = sample("table") / "labels.csv"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=told):
        open_task(str(file))


def test_a_table_that_holds_pictures_is_not_for_this_reader(tmp_path: Path) -> None:
    held = pyarrow.table({"image": [{"bytes": b"x", "path": "a"}], "label": [1]})
    parquet.write_table(held, tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train.parquet: .*it holds the images themselves; keep it with datasets'"):
        open_task(str(tmp_path / "train.parquet"))
