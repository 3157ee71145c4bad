import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petlas.datasets.catalog import list_tasks, open_task
from petlas.datasets.checks import check_images
from petlas.datasets.errors import DataError
from petlas.datasets.names import VTAB

Draw = Callable[..., Path]


@pytest.fixture
def root(vtab: Path, draw: Draw) -> Path:
    """A root with vtab-1k/shapes and a plain class folder `flowers`."""
    root = vtab.parent.parent
    for number in range(20):
        draw(root / f"flowers/{('rose', 'tulip')[number % 2]}/{number:02}.png", number)
    return root


def test_digits_needs_no_root() -> None:
    assert open_task("digits").num_classes == 10


@pytest.mark.parametrize("below", ["", "vtab-1k", "vtab-1k/shapes"])
def test_the_root_may_hold_vtab_be_it_or_be_the_data_set(root: Path, below: str) -> None:
    assert len(open_task("shapes", root / below).views["trainval"]) == 9


def test_the_root_may_come_from_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETLAS_DATA", str(root))
    assert open_task("flowers").classes == ("rose", "tulip")
    assert open_task("shapes").num_classes == 3


def test_a_path_opens_either_layout(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_task(str(root / "vtab-1k/shapes")).num_classes == 3
    monkeypatch.chdir(root)
    assert open_task("./flowers").name == "flowers"


def test_the_seed_reaches_the_folder(root: Path) -> None:
    prints = [open_task("flowers", root, seed).fingerprint for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_a_data_set_is_found_under_its_other_name(root: Path) -> None:
    (root / "vtab-1k/shapes").rename(root / "vtab-1k/cifar100")
    assert open_task("cifar", root).num_classes == 100
    assert {info.name for info in list_tasks(root) if info.found} == {"digits", "cifar", "flowers"}


def test_a_folder_whose_classes_nest_their_images_opens_by_path(tmp_path: Path, draw: Draw) -> None:
    for number in range(8):
        draw(tmp_path / f"nested/{'ab'[number % 2]}/deep/{number}.png", number)
    assert open_task(str(tmp_path / "nested")).classes == ("a", "b")


def test_an_unknown_name_gets_the_nearest_names_and_where_it_was_sought(root: Path) -> None:
    with pytest.raises(DataError, match=r"unknown task 'shape', .*data/vtab-1k/shape.*did you mean shapes"):
        open_task("shape", root)
    with pytest.raises(DataError, match=r"did you mean cifar.*PETLAS_DATA"):
        open_task("cifar-100")
    with pytest.raises(DataError, match=r"known names are CIFAR10, .*, caltech101, "):
        open_task("qqqq", root)
    with pytest.raises(DataError, match="unknown task ''"):
        open_task("", root)


def test_a_relative_path_leads_from_the_start_first_and_it_is_told_where_it_led(
    tmp_path: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        draw(tmp_path / f"start/mine/{'ab'[number % 2]}/{number}.png", number)
        draw(tmp_path / f"here/mine/{'cd'[number % 2]}/{number}.png", number)
    monkeypatch.chdir(tmp_path / "here")
    assert open_task("mine").classes == ("c", "d")
    assert open_task("mine", start=tmp_path / "start").classes == ("a", "b")
    assert open_task("mine", root="../start", start=tmp_path / "here").classes == ("a", "b")
    assert open_task("mine", root=".", start=tmp_path / "start").classes == ("a", "b")
    assert open_task("mine", start=tmp_path / "gone").classes == ("c", "d")
    with pytest.raises(DataError, match=r"not found at .*start/yours, .*here/yours, .*paths_from in its config\.yaml"):
        open_task("yours", start=tmp_path / "start")
    with pytest.raises(DataError, match=r"start/gone or .*here/gone: the root folder does not exist"):
        open_task("yours", root="gone", start=tmp_path / "start")


def test_a_missing_root_and_a_folder_without_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone: the root folder does not exist"):
        open_task("cifar", tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: found no class folders"):
        open_task(str(tmp_path / "empty"))


def test_without_a_root_the_known_tasks_are_listed() -> None:
    infos = list_tasks()
    assert [info.name for info in infos] == ["digits", *VTAB]
    assert [info.name for info in infos if info.found] == ["digits"]
    assert infos[0].counts == {"train": 800, "val": 200, "trainval": 1000, "test": 797}


def test_what_is_found_is_checked_and_counted(root: Path) -> None:
    (root / "notes").mkdir()
    infos = {info.name: info for info in list_tasks(root)}
    assert set(infos) == {"digits", *VTAB, "shapes", "flowers"}
    shapes, flowers = infos["shapes"], infos["flowers"]
    assert (shapes.layout, shapes.num_classes, shapes.fault) == ("vtab", 3, None)
    assert shapes.counts == {"train": 6, "val": 3, "trainval": 9, "test": 3}
    assert (flowers.layout, flowers.path, flowers.counts["test"]) == ("folder", str(root / "flowers"), 4)
    assert not infos["cifar"].found
    assert json.loads(json.dumps([dataclasses.asdict(info) for info in infos.values()]))


def test_a_fault_is_listed_and_the_rest_still_checked(root: Path) -> None:
    (root / "vtab-1k/shapes/images/00003.png").unlink()
    infos = {info.name: info for info in list_tasks(root)}
    assert infos["shapes"].found
    assert "train800.txt line 4: image images/00003.png does not exist" in (infos["shapes"].fault or "")
    assert infos["shapes"].counts == {}
    assert infos["flowers"].fault is None


@pytest.mark.parametrize("layout", ["shapes", "parted"])
def test_the_root_of_one_data_set_lists_just_that(root: Path, layout: str) -> None:
    for part in ("train", "val", "test"):
        shutil.copytree(root / "flowers", root / "parted" / part)
    folder = root / "vtab-1k/shapes" if layout == "shapes" else root / "parted"
    assert [info.name for info in list_tasks(folder) if info.found] == ["digits", layout]


def test_a_known_task_that_is_not_at_hand_says_so_and_never_suggests_itself(root: Path) -> None:
    with pytest.raises(DataError, match=r"task 'dtd' is known, but its images are not at hand: .*data holds no such"):
        open_task("dtd", root)
    with pytest.raises(DataError, match=r"'cifar100' is known.*no folder of data sets is given.*PETLAS_DATA") as caught:
        open_task("cifar100")
    assert "did you mean" not in str(caught.value)


def test_the_split_is_that_of_its_own_seed(root: Path) -> None:
    assert open_task("flowers", root, split_seed=3).split_seed == 3
    assert open_task("shapes", root, split_seed=3).split_seed is None
    assert open_task("digits", split_seed=3).fingerprint == open_task("digits").fingerprint


def test_the_range_of_values_reaches_the_images(root: Path) -> None:
    deep = root / "deep"
    for number in range(8):
        path = deep / f"{'ab'[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), 100 * (number + 1), np.uint16)).save(path)
    with pytest.raises(DataError, match=r"uses 100 to 100 of 0 to 65535 only"):
        check_images(open_task("deep", root).views["trainval"].source)
    tasks = [open_task("deep", root, value_range=(0, white)) for white in (800, 4095)]
    assert tasks[0].fingerprint != tasks[1].fingerprint
    assert np.asarray(tasks[0].views["train"].source.image(0)).max() == round(100 / 800 * 255)


@pytest.mark.parametrize("value_range", [(1, 1), (2, 1), (0, float("nan")), (0, float("inf"))])
def test_an_impossible_range_of_values_is_refused(value_range: tuple[float, float]) -> None:
    with pytest.raises(DataError, match=r"value_range must be \[LOW, HIGH\] with LOW below HIGH"):
        open_task("digits", value_range=value_range)


def test_notes_are_listed(root: Path) -> None:
    (root / "flowers/readme.txt").touch()
    (info,) = [info for info in list_tasks(root) if info.name == "flowers"]
    assert info.notes == ["left out: 1 without an image's suffix (readme.txt)"]


def test_a_folder_that_may_not_be_read_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DataError, match=r"task 'flowers' cannot be read .*Permission denied.*permissions"):
        open_task("flowers", root)
