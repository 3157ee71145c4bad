import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from petlas.datasets.errors import DataError
from petlas.datasets.readers import get_reader
from petlas.datasets.readers.base import ReadOptions
from petlas.datasets.task import Task

Edit = Callable[[list[str]], object]


def open_vtab(path: Path) -> Task:
    return get_reader("vtab").read(path, ReadOptions())


def edit(path: Path, change: Edit) -> None:
    lines = path.read_text().splitlines()
    change(lines)
    path.write_text("\n".join(lines) + "\n")


def test_the_lists_become_the_splits_in_their_order(vtab: Path) -> None:
    task = open_vtab(vtab)
    assert task.name == "shapes"
    assert task.classes == ("class 0", "class 1", "class 2")
    assert {name: len(view) for name, view in task.views.items()} == {
        "train": 6, "val": 3, "trainval": 9, "test": 3,
    }  # fmt: skip
    assert task.views["train"].targets.tolist() == [0, 1, 2, 0, 1, 2]
    edit(vtab / "test.txt", list.reverse)
    assert open_vtab(vtab).views["test"].targets.tolist() == [2, 1, 0]


def test_a_path_may_hold_spaces(vtab: Path) -> None:
    (vtab / "images/00000.png").rename(vtab / "images/a b 7.png")
    for file in ("train800.txt", "train800val200.txt"):
        edit(vtab / file, lambda lines: lines.__setitem__(0, "./images/a b 7.png\t0 "))
    assert open_vtab(vtab).views["train"].source.image(0).size == (12, 9)


def test_a_windows_list_with_a_byte_order_mark_is_read(vtab: Path) -> None:
    lines = (vtab / "test.txt").read_text().replace("\n", "\r\n")
    (vtab / "test.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert open_vtab(vtab).views["test"].targets.tolist() == [0, 1, 2]


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
        (
            "train800.txt",
            "images/00002.png 3",
            r"train800\.txt line 3: .* label 3 here and 2 in train800val200\.txt line 3",
        ),
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
    assert len(open_vtab(vtab).views["trainval"]) == 9


@pytest.mark.parametrize(
    ("name", "classes", "tests"), [("emoji_group", 9, 906), ("mnist", 10, 1000), ("dsprites_loc", 16, 1000)]
)
def test_a_real_data_set_is_read_whole(real_vtab: Path, name: str, classes: int, tests: int) -> None:
    task = open_vtab(real_vtab / name)
    assert (task.num_classes, len(task.views["test"])) == (classes, tests)
    assert [len(task.views[view]) for view in ("train", "val", "trainval")] == [800, 200, 1000]
    both = np.concatenate([task.views["train"].targets, task.views["val"].targets])
    assert (both == task.views["trainval"].targets).all()


def test_labels_from_1_are_told(vtab: Path) -> None:
    for path in vtab.glob("*.txt"):
        edit(path, lambda lines: lines.__setitem__(slice(None), [f"{x[:-1]}{int(x[-1]) + 1}" for x in lines]))
    with pytest.raises(DataError, match=r"shapes: the labels of all lists together are 1\.\.3, and none is 0; number"):
        open_vtab(vtab)
    (vtab / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(DataError, match="none is 0"):
        open_vtab(vtab)
    (vtab / "classes.txt").write_text("background\na\nb\nc\n")
    assert open_vtab(vtab).num_classes == 4


def relabel(folder: Path, labels: dict[str, list[int]]) -> None:
    """Gives the 6 + 3 images to learn from and the 3 test images these labels."""
    both = labels["train800"] + labels["val200"]
    for name, values in (labels | {"train800val200": both}).items():
        edit(
            folder / f"{name}.txt",
            lambda lines, values=values: lines.__setitem__(  # type: ignore[misc]
                slice(None), [f"{x.split()[0]} {v}" for x, v in zip(lines, values, strict=True)]
            ),
        )


def test_classes_are_counted_over_all_lists_and_what_is_missing_is_noted(vtab: Path) -> None:
    relabel(vtab, {"train800": [0, 2, 4, 0, 2, 4], "val200": [0, 2, 0], "test": [1, 2, 4]})
    task = open_vtab(vtab)
    assert task.classes == ("class 0", "class 1", "class 2", "class 3", "class 4")
    assert task.notes == (
        "train has no image of 2 of 5 classes: class 1, class 3",
        "val has no image of 3 of 5 classes: class 1, class 3, class 4",
        "train and val together have no image of 2 of 5 classes: class 1, class 3",
        "test has no image of 2 of 5 classes: class 0, class 3",
    )
    assert len(task.folds(3, 0)) == 3


def test_images_that_only_one_of_the_lists_names_are_noted(vtab: Path) -> None:
    edit(vtab / "train800.txt", lambda lines: lines.pop(0))
    assert "train800val200.txt lacks 0 images of train800.txt and val200.txt and has 1 others" in open_vtab(vtab).notes


def test_each_image_to_learn_from_is_there_once_and_test_apart(vtab: Path) -> None:
    views = open_vtab(vtab).views
    assert len(views["train"].source) == 9
    assert views["train"].source is views["val"].source is views["trainval"].source is not views["test"].source
    assert views["val"].indices.tolist() == [6, 7, 8]


def test_names_may_hold_any_bytes_and_marks(vtab: Path) -> None:
    odd = [b"images/caf\xe9.png", b"images/[bold]%s \xff.png"]
    for number, name in enumerate(odd):
        (vtab / f"images/0000{number}.png").rename(vtab / os.fsdecode(name))
        for file in ("train800.txt", "train800val200.txt"):
            path = vtab / file
            path.write_bytes(path.read_bytes().replace(f"images/0000{number}.png".encode(), name))
    task = open_vtab(vtab)
    assert [os.fsencode(task.views["train"].source.name(index)) for index in range(2)] == odd
    assert len(task.fingerprint) == 64
    task.views["train"].source.image(1)
    (vtab / os.fsdecode(odd[0])).unlink()
    with pytest.raises(DataError, match=r"image images/caf\\udce9\.png does not exist") as caught:
        open_vtab(vtab)
    str(caught.value).encode()
