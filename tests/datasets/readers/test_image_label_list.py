from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from petlas.datasets import DataError, Task, list_tasks, open_task

Draw = Callable[..., Path]


@pytest.fixture
def lists(tmp_path: Path, draw: Draw) -> Path:
    """8 + 2 + 2 images of three classes."""
    root = tmp_path / "scenes"
    labels = ["sky", "sea,sky", "tree", "sky , sea,tree", "sea", "tree,sky", "", "sea"]
    lines = [f"{draw(root / f'images/{n}.png', n).relative_to(root)} {labels[n % 8]}" for n in range(12)]
    for name, part in (("train", lines[:8]), ("val", lines[8:10]), ("test", lines[10:])):
        (root / f"{name}.txt").write_text("\n".join(part).replace("sky , sea,tree", "sky,sea,tree") + "\n")
    (root / "classes.txt").write_text("sea\nsky\ntree\n")
    return root


def read(root: Path) -> Task:
    return open_task(str(root))


def test_the_lists_become_views_of_rows_of_classes(lists: Path) -> None:
    task = read(lists)
    assert (task.name, task.kind, task.layout) == ("scenes", "multi_label", "image_label_list")
    assert task.classes == ("sea", "sky", "tree")
    assert {name: len(view) for name, view in task.views.items()} == {
        "train": 8, "val": 2, "trainval": 10, "test": 2,
    }  # fmt: skip
    assert task.views["train"].targets.astype(int).tolist() == [
        [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 0, 0],
    ]  # fmt: skip
    assert task.notes == (
        "1 of 12 images have no label",
        "val has no image of 1 of 3 classes: tree",
    )
    assert task.split_seed is None


def test_missing_lists_are_set_aside_by_the_split_seed(lists: Path) -> None:
    (lists / "test.txt").unlink()
    assert [len(read(lists).views[view]) for view in ("train", "val", "test")] == [6, 2, 2]
    (lists / "val.txt").unlink()
    task, other = read(lists), open_task(str(lists), split_seed=1)
    assert (task.split_seed, other.split_seed) == (0, 1)
    assert task.fingerprint != other.fingerprint
    assert len(task.views["trainval"]) + len(task.views["test"]) == 8


def test_labels_may_be_places_in_classes_txt(lists: Path) -> None:
    named = read(lists)
    for part in ("train", "val", "test"):
        path = lists / f"{part}.txt"
        path.write_text(path.read_text().replace("sea", "0").replace("sky", "1").replace("tree", "2"))
    assert read(lists).fingerprint == named.fingerprint


def test_names_that_are_numbers_are_names(lists: Path) -> None:
    (lists / "classes.txt").write_text("7\n0\n1\n")
    for part, labels in (("train", ["7"] * 4 + ["0,1"] * 4), ("val", ["7", "1"]), ("test", ["0", "7"])):
        path = lists / f"{part}.txt"
        lines = path.read_text().splitlines()
        path.write_text("\n".join(f"{line.split()[0]} {label}" for line, label in zip(lines, labels, strict=True)))
    assert read(lists).views["test"].targets.argmax(axis=1).tolist() == [1, 0]


def test_names_may_hold_blanks_behind_a_tab(lists: Path) -> None:
    (lists / "classes.txt").write_text("deep sea\nsky\ntree\n")
    (lists / "images/0.png").rename(lists / "images/a b.png")
    for part in ("train", "val", "test"):
        path = lists / f"{part}.txt"
        text = path.read_text().replace(" ", "\t").replace("sea", "deep sea").replace("images/0.png", "images/a b.png")
        path.write_text(text)
    task = read(lists)
    assert task.classes[0] == "deep sea"
    assert task.views["train"].source.name(0) == "images/a b.png"
    assert task.views["train"].targets[:, 0].sum() == 4


def test_images_of_one_label_each_are_still_of_several(lists: Path) -> None:
    for part in ("train", "val", "test"):
        path = lists / f"{part}.txt"
        path.write_text("".join(f"{line.split()[0]} sky\n" for line in path.read_text().splitlines()))
    task = read(lists)
    assert task.kind == "multi_label"
    assert "no image has more than one label; they are still learned as labels that may go together" in task.notes


@pytest.mark.parametrize(
    ("file", "line", "fault"),
    [
        ("train.txt", "images/2.png tre", r"train\.txt line 3: label 'tre' is not in classes\.txt \(did you mean tree"),
        ("val.txt", "images/8.png 3", r"val\.txt line 1: label '3' is not in classes\.txt"),
        ("val.txt", "images/8.png sky,", r"val\.txt line 1: label '' is not in classes\.txt"),
        ("train.txt", "images/gone.png sky", r"train\.txt line 3: image images/gone\.png does not exist"),
        ("train.txt", "images/2.png sky 1", r"train\.txt line 3: there is an extra column"),
        ("train.txt", "images/0.png sky", r"train\.txt line 3: images/0\.png is already in line 1"),
        ("test.txt", "images/1.png sky", r"test\.txt line 1: images/1\.png is also in train\.txt line 2"),
        ("test.txt", "images/8.png sky", r"test\.txt line 1: images/8\.png is also in val\.txt line 1"),
        ("classes.txt", "sea", r"classes\.txt line 3: 'sea' is empty or a repeat"),
    ],
)
def test_a_faulty_line_is_named(lists: Path, file: str, line: str, fault: str) -> None:
    lines = (lists / file).read_text().splitlines()
    lines[0 if file in ("val.txt", "test.txt") else 2] = line
    (lists / file).write_text("\n".join(lines))
    with pytest.raises(DataError, match=fault):
        read(lists)


def test_a_number_beyond_the_classes_is_out_of_range(lists: Path) -> None:
    for part in ("train", "val", "test"):
        path = lists / f"{part}.txt"
        path.write_text(path.read_text().replace("sea", "1").replace("sky", "2").replace("tree", "3"))
    with pytest.raises(DataError, match=r"label 3 is out of range 0\.\.2"):
        read(lists)


def test_class_folders_with_some_list_beside_them_are_class_folders(lists: Path, draw: Draw) -> None:
    (lists / "classes.txt").unlink()
    for number in range(8):
        draw(lists / f"{('a', 'b')[number % 2]}/{number}.png", 40 + number)
    assert read(lists).layout == "folder"


def test_it_is_listed_with_its_kind_and_notes(lists: Path) -> None:
    (info,) = [info for info in list_tasks(lists.parent) if info.name == "scenes"]
    assert (info.layout, info.kind, info.num_classes, info.fault) == ("image_label_list", "multi_label", 3, None)
    assert "1 of 12 images have no label" in info.notes


def test_folds_spread_every_label_evenly(tmp_path: Path, draw: Draw) -> None:
    random = np.random.RandomState(0)
    root = tmp_path / "many"
    (root / "a").mkdir(parents=True)
    rows = random.rand(120, 4) < [0.5, 0.3, 0.1, 0.05]
    for part, held in (("train", range(100)), ("test", range(100, 120))):
        lines = [f"a/{n}.png {','.join(np.flatnonzero(rows[n]).astype(str))}" for n in held]
        (root / f"{part}.txt").write_text("\n".join(lines))
    for number in range(120):
        (root / f"a/{number}.png").touch()
    (root / "classes.txt").write_text("p\nq\nr\ns\n")
    task = read(root)
    counts = np.array([out.targets.sum(axis=0) for _, out in task.folds(4, 0)])
    assert (counts.max(axis=0) - counts.min(axis=0) <= 3).all()
    assert {len(out) for _, out in task.folds(4, 0)} <= {24, 25, 26}
