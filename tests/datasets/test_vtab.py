from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from petlas.datasets.task import DataError
from petlas.datasets.vtab import open_vtab

Edit = Callable[[list[str]], object]


def edit(path: Path, change: Edit) -> None:
    lines = path.read_text().splitlines()
    change(lines)
    path.write_text("\n".join(lines) + "\n")


def test_the_lists_become_the_splits_in_their_order(vtab: Path) -> None:
    task = open_vtab(vtab)
    assert task.name == "shapes"
    assert task.classes == ("class 0", "class 1", "class 2")
    assert {name: len(split) for name, split in task.splits.items()} == {
        "train": 6, "val": 3, "trainval": 9, "test": 3,
    }  # fmt: skip
    assert task.splits["train"].labels.tolist() == [0, 1, 2, 0, 1, 2]
    edit(vtab / "test.txt", list.reverse)
    assert open_vtab(vtab).splits["test"].labels.tolist() == [2, 1, 0]


def test_a_path_may_hold_spaces(vtab: Path) -> None:
    (vtab / "images/00000.png").rename(vtab / "images/a b 7.png")
    for file in ("train800.txt", "train800val200.txt"):
        edit(vtab / file, lambda lines: lines.__setitem__(0, "./images/a b 7.png\t0 "))
    assert open_vtab(vtab).splits["train"].source.image(0).size == (12, 9)


def test_a_windows_list_with_a_byte_order_mark_is_read(vtab: Path) -> None:
    lines = (vtab / "test.txt").read_text().replace("\n", "\r\n")
    (vtab / "test.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert open_vtab(vtab).splits["test"].labels.tolist() == [0, 1, 2]


def test_classes_come_from_classes_txt_or_from_what_is_known(vtab: Path) -> None:
    known = vtab.rename(vtab.parent / "svhn")
    assert open_vtab(known).classes == tuple("0123456789")
    (known / "classes.txt").write_text("disc\nbox\nfar star\n")
    assert open_vtab(known).classes == ("disc", "box", "far star")
    (known / "classes.txt").write_text("disc\nbox\ndisc\n")
    with pytest.raises(DataError, match=r"classes\.txt line 3: 'disc' is empty or a repeat"):
        open_vtab(known)


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        ("train800.txt", "images/00002.png 12", r"train800\.txt line 3: label 12 is out of range 0\.\.2"),
        ("train800.txt", "images/00002.png 3", r"train800\.txt line 3: label 3 is out of range 0\.\.2"),
        ("test.txt", "images/00011.png -1", r"test\.txt line 3: label -1 is out of range"),
        ("val200.txt", "images/00008.png 2.0", r"val200\.txt line 3: label '2\.0' is not a whole number"),
        ("val200.txt", "images/00008.png 1_0", r"val200\.txt line 3: label '1_0' is not a whole number"),
        ("val200.txt", "images/00008.png", r"val200\.txt line 3: expected `IMAGE LABEL`, got 'images/00008\.png'"),
        ("val200.txt", "", r"val200\.txt line 3: expected"),
        ("train800.txt", "images/gone.png 2", r"train800\.txt line 3: image images/gone\.png does not exist"),
        ("train800.txt", "elsewhere/00002.png 2", r"train800\.txt line 3: image elsewhere/00002\.png does not exist"),
        ("train800.txt", "./images/00000.png 0", r"train800\.txt line 3: images/00000\.png is already in line 1"),
        ("test.txt", "images/00001.png 1", r"test\.txt line 3: images/00001\.png is also in train800\.txt line 2"),
        ("test.txt", "images/00007.png 1", r"test\.txt line 3: images/00007\.png is also in val200\.txt line 2"),
        ("val200.txt", "images/00001.png 1", r"val200\.txt line 3: images/00001\.png is also in train800\.txt line 2"),
        ("train800.txt", "images/00002.png 1", r"line 3: images/00002\.png has label 1 here and 2 in train800val200"),
    ],
)
def test_a_faulty_line_is_named(vtab: Path, file: str, line: str, fault: str) -> None:
    def change(lines: list[str]) -> None:
        lines[2] = line
        if not line:
            lines.append("images/00008.png 2")

    edit(vtab / file, change)
    with pytest.raises(DataError, match=fault):
        open_vtab(vtab)


def test_an_image_only_in_trainval_may_not_be_tested_on(vtab: Path) -> None:
    edit(vtab / "train800.txt", lambda lines: lines.pop(0))
    edit(vtab / "test.txt", lambda lines: lines.append("images/00000.png 0"))
    with pytest.raises(DataError, match=r"test\.txt line 4: images/00000\.png is also in train800val200\.txt line 1"):
        open_vtab(vtab)


def test_an_empty_or_missing_or_unreadable_list_is_named(vtab: Path) -> None:
    (vtab / "val200.txt").write_text("\n\n")
    with pytest.raises(DataError, match=r"val200\.txt: the list is empty"):
        open_vtab(vtab)
    (vtab / "val200.txt").write_bytes(b"\xff\xfe\xff 0")
    with pytest.raises(DataError, match=r"val200\.txt: the list cannot be read"):
        open_vtab(vtab)
    (vtab / "val200.txt").unlink()
    with pytest.raises(DataError, match=r"val200\.txt: the list is missing"):
        open_vtab(vtab)


def test_the_1000_images_may_exist_twice(vtab: Path) -> None:
    (vtab / "both").mkdir()
    for image in (vtab / "images").iterdir():
        (vtab / "both" / image.name).write_bytes(image.read_bytes())
    path = vtab / "train800val200.txt"
    path.write_text(path.read_text().replace("images/", "both/"))
    assert len(open_vtab(vtab).splits["trainval"]) == 9


@pytest.mark.parametrize(
    ("name", "classes", "tests"), [("emoji_group", 9, 906), ("mnist", 10, 1000), ("dsprites_loc", 16, 1000)]
)
def test_a_real_data_set_is_read_whole(real_vtab: Path, name: str, classes: int, tests: int) -> None:
    task = open_vtab(real_vtab / name)
    assert (task.num_classes, len(task.splits["test"])) == (classes, tests)
    assert [len(task.splits[split]) for split in ("train", "val", "trainval")] == [800, 200, 1000]
    both = np.concatenate([task.splits["train"].labels, task.splits["val"].labels])
    assert (both == task.splits["trainval"].labels).all()
