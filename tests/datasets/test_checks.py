import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from petlas.datasets import ArraySource, DataError, check_images, check_overlap, check_task, open_task
from petlas.datasets.task import Task, View

Draw = Callable[..., Path]


@pytest.fixture
def parted(tmp_path: Path, draw: Draw) -> Path:
    """train, val and test folders of 6, 2 and 4 different images in two classes."""
    for seed, name in enumerate(("train",) * 6 + ("val",) * 2 + ("test",) * 4):
        draw(tmp_path / f"pets/{name}/{('cat', 'dog')[seed % 2]}/{seed}.png", seed)
    return tmp_path / "pets"


def test_a_sound_task_has_nothing_to_note(parted: Path, cache: Path) -> None:
    assert check_task(open_task(str(parted)), 8) == ()
    assert len(list(cache.glob("*.npy"))) == 2


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_broken_image_of_any_part_is_told_before_anything_is_learned(parted: Path, part: str) -> None:
    path = next((parted / part / "cat").iterdir())
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=rf"{part}/cat/{path.name}: the image cannot be read .*; replace the file"):
        check_task(open_task(str(parted)), 8)


def test_a_repaired_image_is_taken(parted: Path) -> None:
    path = next((parted / "train/cat").iterdir())
    whole = path.read_bytes()
    path.write_bytes(whole[:60])
    with pytest.raises(DataError):
        check_task(open_task(str(parted)), 8)
    path.write_bytes(whole)
    assert check_task(open_task(str(parted)), 8) == ()


def test_images_are_checked_without_keeping_any(parted: Path, cache: Path) -> None:
    source = open_task(str(parted)).views["test"].source
    check_images(source)
    assert not cache.exists()
    for path in (parted / "test/dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"test/dog/\d+\.png: .*1 more of 4 images are at fault: test/dog"):
        check_images(source)


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_test_image_that_is_learned_from_is_refused_with_both_names(parted: Path, part: str) -> None:
    shutil.copy(next((parted / part / "cat").iterdir()), parted / "test/dog/other name.png")
    with pytest.raises(DataError, match=rf"1 of 5 test images .* \(test/dog/other name\.png = {part}/cat/\d\.png\)"):
        check_overlap(open_task(str(parted)))


def test_images_that_are_there_twice_within_what_is_learned_from_are_noted(parted: Path) -> None:
    shutil.copy(parted / "train/cat/0.png", parted / "train/cat/x.png")
    shutil.copy(parted / "train/cat/2.png", parted / "val/dog/x.png")
    assert check_overlap(open_task(str(parted))) == (
        "among what is learned from, 1 image is there again with the same labels (train/cat/0.png = train/cat/x.png)",
        "among what is learned from, 1 image is there again with different labels (train/cat/2.png = val/dog/x.png)",
    )


def test_published_lists_may_overlap_a_little(real_vtab: Path) -> None:
    notes = check_overlap(open_task(str(real_vtab / "emoji_group")))
    assert notes[0].startswith("5 of 906 test images are also learned from (images/01006.png = images/")


@pytest.mark.parametrize(("tests", "refused"), [(99, True), (100, False)])
def test_up_to_one_in_a_hundred_is_a_little(tests: int, refused: bool) -> None:
    images = np.random.RandomState(0).randint(0, 256, (4 + tests, 4, 4), dtype=np.uint8)
    images[-1] = images[0]
    whole = View.whole(ArraySource(images[:4]), np.array([0, 1, 0, 1]))
    views = {"train": whole.subset([0, 1]), "val": whole.subset([2, 3]), "trainval": whole}
    views["test"] = View.whole(ArraySource(images[4:]), np.arange(tests) % 2)
    task = Task("toy", ("a", "b"), "single_label", views, "toy", tolerated_overlap=0.01)
    if refused:
        with pytest.raises(DataError, match="1 of 99 test images"):
            check_overlap(task)
    else:
        assert check_overlap(task)[0].startswith("1 of 100 test images")


def test_an_overlap_of_lists_is_found_under_other_names(vtab: Path) -> None:
    shutil.copy(vtab / "images/00001.png", vtab / "images/00010.png")
    with pytest.raises(DataError, match=r"shapes: 1 of 3 test images .*00010\.png = images/00001\.png"):
        check_overlap(open_task(str(vtab)))
