import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petlas.datasets.checks import check_images
from petlas.datasets.errors import DataError
from petlas.datasets.readers import get_reader
from petlas.datasets.readers.base import ReadOptions
from petlas.datasets.task import Task

Draw = Callable[..., Path]


def open_folder(path: Path, seed: int = 0) -> Task:
    return get_reader("folder").read(path, ReadOptions(seed))


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
    return {str(task.views[split].source.name(index)) for index in task.views[split].indices}


def test_class_folders_alone_are_split_by_fifths(flat: Path) -> None:
    task = open_folder(flat)
    assert task.name == "pets"
    assert task.classes == ("cat", "dog")
    counts = {name: np.bincount(view.targets).tolist() for name, view in task.views.items()}
    assert counts == {"train": [19, 13], "val": [5, 3], "trainval": [24, 16], "test": [6, 4]}
    assert names(task, "train") | names(task, "val") == names(task, "trainval")
    assert not names(task, "train") & names(task, "val")
    assert not names(task, "trainval") & names(task, "test")
    for view in task.views.values():
        expected = [{"cat": 0, "dog": 1}[view.source.name(index).split("/")[0]] for index in view.indices]
        assert view.targets.tolist() == expected


def test_the_seed_decides_what_is_set_aside(flat: Path) -> None:
    first, again, other = open_folder(flat, 1), open_folder(flat, 1), open_folder(flat, 2)
    for split in ("val", "test"):
        assert names(first, split) == names(again, split) != names(other, split)


def test_folders_of_splits_are_taken_as_they_are(parted: Path) -> None:
    task = open_folder(parted)
    assert {name: len(view) for name, view in task.views.items()} == {
        "train": 10, "val": 4, "trainval": 14, "test": 2,
    }  # fmt: skip
    assert all(name.startswith("test/") for name in names(task, "test"))


@pytest.mark.parametrize(("missing", "other"), [("val", "test"), ("test", "val")])
def test_a_missing_split_is_a_fifth_of_train(parted: Path, missing: str, other: str) -> None:
    kept = names(open_folder(parted), other)
    (parted / missing).rename(parted.parent / "away")
    task = open_folder(parted)
    assert len(task.views[missing]) == 2
    assert len(task.views["train"]) == 8
    assert names(task, missing) <= {f"train/{c}/{i:02}.png" for c in ("cat", "dog") for i in range(5)}
    assert names(task, other) == kept


def test_nested_images_and_every_extension_count_and_hidden_files_do_not(flat: Path, draw: Draw) -> None:
    for number, suffix in enumerate(("JPG", "jpeg", "bmp", "WebP", "gif", "tif", "tiff")):
        draw(flat / f"cat/deep/deeper/x{number}.{suffix}")
    for other in ("cat/._00.png", "cat/.DS_Store", "cat/notes.txt"):
        (flat / other).write_text("not an image")
    task = open_folder(flat)
    cats = sum(int((task.views[split].targets == 0).sum()) for split in ("trainval", "test"))
    assert cats == 37
    for split in ("trainval", "test"):
        for index in task.views[split].indices:
            task.views[split].source.image(index)


def test_a_class_may_be_called_train(flat: Path) -> None:
    (flat / "dog").rename(flat / "train")
    assert open_folder(flat).classes == ("cat", "train")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("val/cat", "val/lion", r"pets/val: .* it has the extra class 'lion'"),
        ("val/cat", "val/Cat", r"pets/val: .* extra class 'Cat', which is spelt 'cat' there and 'Cat' here"),
        ("val", "extra", r"pets/extra: next to folders of splits there may be no 'extra' .* understood are train, val"),
        ("train", "practice", r"pets/practice: .* understood are train, val and test, or training"),
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
    assert get_reader("folder").recognises(flat)
    assert not get_reader("folder").recognises(vtab.parent)
    with pytest.raises(DataError, match="holds data sets such as shapes"):
        open_folder(vtab.parent)


def test_a_split_may_lack_a_class(parted: Path) -> None:
    (parted / "test/cat").rename(parted.parent / "away")
    task = open_folder(parted)
    assert task.classes == ("cat", "dog")
    assert task.notes == ("test has no image of 1 of 2 classes: cat",)


def test_an_empty_folder_in_train_says_that_a_class_is_meant(parted: Path, draw: Draw) -> None:
    draw(parted / "test/lion/1.png", 50)
    with pytest.raises(DataError, match=r"extra class 'lion'.* make an empty folder of that name in train"):
        open_folder(parted)
    (parted / "train/lion").mkdir()
    task = open_folder(parted)
    assert task.classes == ("cat", "dog", "lion")
    assert "train and val together have no image of 1 of 3 classes: lion" in task.notes


@pytest.mark.parametrize(
    "spelt",
    [
        "Train Val Test", "TRAIN VAL TEST", "training testing", "Training Testing", "train_data test_data",
        "training validation testing", "train valid test", "train-set dev-set test-set", "trainset testset",
        "Training_Set Validation_Set Test_Set", "train_images dev test",
    ],
)  # fmt: skip
def test_folders_of_splits_are_understood_or_refused_and_never_classes(parted: Path, spelt: str) -> None:
    shutil.rmtree(parted / "val")
    for name in spelt.split():
        shutil.copytree(parted / "train", parted / "x" / name)
    for name in ("train", "test"):
        shutil.rmtree(parted / name)
    if "train_images" in spelt:
        with pytest.raises(DataError, match="understood are train, val and test"):
            open_folder(parted / "x")
    else:
        task = open_folder(parted / "x")
        assert task.classes == ("cat", "dog")
        assert len(task.views["test"]) == 10
        assert (task.split_seed is None) == (len(spelt.split()) == 3)


@pytest.mark.parametrize("spelt", ["a b", "lernen pruefen", "fold1 fold2 fold3", "2019 2020"])
def test_folders_that_all_hold_the_same_folders_are_not_taken_for_classes(
    tmp_path: Path, draw: Draw, spelt: str
) -> None:
    for name in spelt.split():
        for number, kind in enumerate(("cat", "dog")):
            draw(tmp_path / "x" / name / kind / "1.png", number)
    draw(tmp_path / "x" / spelt.split(maxsplit=1)[0] / "owl/1.png", 2)
    with pytest.raises(DataError, match=r"all hold folders cat, dog, so they may be splits, but understood are train"):
        open_folder(tmp_path / "x")


def test_a_split_twice_or_without_train_is_refused(parted: Path) -> None:
    shutil.copytree(parted / "val", parted / "Validation")
    with pytest.raises(DataError, match="val: 'Validation' is val, too"):
        open_folder(parted)
    for name in ("train", "Validation"):
        shutil.rmtree(parted / name)
    with pytest.raises(DataError, match="next to test, val there must be train"):
        open_folder(parted)


def test_images_without_classes_in_a_split_are_refused(parted: Path, draw: Draw) -> None:
    shutil.rmtree(parted / "test")
    draw(parted / "test/1.png")
    with pytest.raises(DataError, match="test must hold class folders"):
        open_folder(parted)


def test_classes_may_have_names_of_splits_where_images_lie_right_in_them(tmp_path: Path, draw: Draw) -> None:
    for number in range(8):
        draw(tmp_path / f"x/{('bus', 'train')[number % 2]}/{number}.png", number)
    assert open_folder(tmp_path / "x").classes == ("bus", "train")


def test_the_seed_of_what_was_set_aside_is_recorded(flat: Path, parted: Path) -> None:
    (parted / "cat").rename(parted.parent / "away-cat")
    (parted / "dog").rename(parted.parent / "away-dog")
    assert open_folder(parted, 5).split_seed is None
    (parted / "val").rename(parted.parent / "away")
    assert open_folder(parted, 5).split_seed == 5


def test_what_is_not_used_is_told_in_one_line_with_counts_and_reasons(flat: Path, draw: Draw) -> None:
    for name in ("loose.png", "__MACOSX/cat/1.png", "cat/@eaDir/00.png/thumb.png", ".ipynb_checkpoints/x.png"):
        draw(flat / name)
    draw(flat / "cat/._01.png")
    for name in ("README.md", "cat/labels.csv", "dog/deep.psd", "dog/.DS_Store"):
        (flat / name).write_text("x")
    task = open_folder(flat)
    assert task.classes == ("cat", "dog")
    assert len(task.views["trainval"]) + len(task.views["test"]) == 50
    assert task.notes == (
        "left out: 3 hidden (.ipynb_checkpoints, cat/._01.png, dog/.DS_Store); "
        "2 made by tools (__MACOSX, cat/@eaDir); "
        "1 outside the class folders (loose.png); "
        "3 without an image's suffix (README.md, cat/labels.csv, dog/deep.psd)",
    )


def test_other_suffixes_that_hold_images_count(flat: Path, draw: Draw) -> None:
    for number, suffix in enumerate(("jfif", "JPE", "ppm", "pgm", "tga", "dib", "jp2", "apng")):
        path = draw(flat / f"cat/x{number}.png", 100 + number)
        with Image.open(path) as image:
            image.load()
        (image.convert("L") if suffix == "pgm" else image).save(flat / f"cat/y{number}.{suffix}")
        path.unlink()
    task = open_folder(flat)
    assert len(task.views["trainval"]) + len(task.views["test"]) == 58
    for view in ("trainval", "test"):
        check_images(task.views[view].source)


def test_linked_folders_and_images_are_followed_and_loops_are_told(flat: Path, tmp_path: Path, draw: Draw) -> None:
    for number in range(4):
        draw(tmp_path / f"elsewhere/owls/{number}.png", 60 + number)
    (flat / "owl").symlink_to(tmp_path / "elsewhere/owls")
    (flat / "cat/more").symlink_to(flat)
    (flat / "cat/self").symlink_to("self")
    (flat / "dog/gone.txt").symlink_to("nowhere")
    (flat / "dog/linked.png").symlink_to(draw(tmp_path / "elsewhere/d.png", 70))
    task = open_folder(flat)
    assert task.classes == ("cat", "dog", "owl")
    assert len(task.views["trainval"]) + len(task.views["test"]) == 55
    assert task.notes == (
        "left out: 1 linked to a folder above (cat/more); 2 linked to nothing (cat/self, dog/gone.txt)",
    )


def test_a_broken_link_to_an_image_is_a_fault(flat: Path) -> None:
    (flat / "dog/gone.png").symlink_to("nowhere.png")
    task = open_folder(flat)
    with pytest.raises(DataError, match=r"dog/gone\.png: the image cannot be read \(No such file"):
        _ = task.views["trainval"].source.hashes, task.views["test"].source.hashes


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_no_image(flat: Path) -> None:
    os.mkfifo(flat / "dog/pipe.png")
    assert open_folder(flat).notes == ("left out: 1 neither file nor folder (dog/pipe.png)",)


def test_names_are_data_and_kept_as_they_are(tmp_path: Path, draw: Draw) -> None:
    classes = [b"[bold]", b"a\nb", b"caf\xc3\xa9", b"cafe\xcc\x81", b"caf\xe9", b"50% off", b" blank ", b"-flag"]
    for name in classes:
        for number in range(5):
            draw(tmp_path / "x" / os.fsdecode(name) / os.fsdecode(b"%d\xfe\n.png" % number), number)
    task = open_folder(tmp_path / "x")
    assert sorted(os.fsencode(name) for name in task.classes) == sorted(classes)
    assert {os.fsencode(names(task, "train").pop())[-6:]} == {b"\xfe\n.png"}
    check_images(task.views["trainval"].source)
    (tmp_path / "x" / os.fsdecode(b"a\nb") / os.fsdecode(b"0\xfe\n.png")).write_bytes(b"broken")
    faults = []
    for view in ("trainval", "test"):
        try:
            check_images(task.views[view].source)
        except DataError as error:
            faults.append(str(error))
    assert len(faults) == 1
    assert r"a\nb/0\udcfe\n.png: the image cannot be read" in faults[0]
    faults[0].encode()
    assert "\n" not in faults[0]


def test_two_images_a_class_say_how_many_are_needed(tmp_path: Path, draw: Draw) -> None:
    for number in range(6):
        draw(tmp_path / f"x/{'abc'[number % 3]}/{number}.png", number)
    with pytest.raises(DataError, match=r"too few images to set val aside: .* a class needs three images"):
        open_folder(tmp_path / "x")


def test_a_class_of_one_image_is_learned_from(flat: Path, draw: Draw) -> None:
    draw(flat / "owl/1.png", 90)
    task = open_folder(flat)
    assert (task.views["train"].targets == 2).sum() == 1
    assert task.notes == ("val has no image of 1 of 3 classes: owl", "test has no image of 1 of 3 classes: owl")
