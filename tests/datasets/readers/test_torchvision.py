import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from petlas.datasets import DataError, open_task
from petlas.datasets.readers.torchvision import fetch

Make = Callable[[str], Path]
Draw = Callable[..., Path]


def pets(root: Path, draw: Draw) -> Path:
    folder = root / "oxford-iiit-pet"
    for number in range(12):
        draw(folder / f"images/{('Abyssinian', 'great_dane')[number % 2]}_{number}.jpg", number)
    (folder / "annotations").mkdir()
    for part, numbers in (("trainval", range(8)), ("test", range(8, 12))):
        lines = [f"{('Abyssinian', 'great_dane')[n % 2]}_{n} {n % 2 + 1} {n % 2 + 1} 1\n" for n in numbers]
        (folder / f"annotations/{part}.txt").write_text("".join(lines))
    return folder


def test_files_are_read_with_torchvisions_split_and_classes(sample: Make) -> None:
    root = sample("torchvision")
    task = open_task(str(root))
    assert task.classes == ("cat", "dog")
    assert {name: len(view) for name, view in task.views.items()} == {"train": 4, "val": 4, "trainval": 8, "test": 4}
    theirs = datasets.DTD(root, split="test")
    for index, (image, label) in enumerate(theirs):
        assert task.views["test"].targets[index] == label
        assert np.array_equal(np.asarray(task.views["test"].source.image(index)), np.asarray(image))
    assert open_task("DTD", root).fingerprint == task.fingerprint  # by the name of its class


def test_arrays_are_read_and_val_is_set_aside(mnist_folder: Path) -> None:
    task, other = (open_task("MNIST", mnist_folder.parent, split_seed=seed) for seed in (0, 1))
    assert task.layout == "torchvision"
    assert task.classes[:2] == ("0 - zero", "1 - one")
    assert {name: len(view) for name, view in task.views.items()} == {"train": 9, "val": 3, "trainval": 12, "test": 4}
    theirs = datasets.MNIST(mnist_folder.parent, train=False)
    assert np.array_equal(np.asarray(task.views["test"].source.image(2))[..., 0], np.asarray(theirs[2][0]))
    assert task.fingerprint != other.fingerprint
    assert task.test_fingerprint == other.test_fingerprint


def test_pets_are_read_from_their_lists(tmp_path: Path, draw: Draw) -> None:
    folder = pets(tmp_path / "data", draw)
    task = open_task("OxfordIIITPet", folder.parent)
    assert task.classes == ("Abyssinian", "great dane")
    assert {name: len(view) for name, view in task.views.items()} == {"train": 6, "val": 2, "trainval": 8, "test": 4}
    theirs = datasets.OxfordIIITPet(folder.parent, split="test")
    assert task.views["test"].targets.tolist() == [label for _, label in theirs]


def test_nothing_is_fetched_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: Make) -> None:
    sound, asked = sample("torchvision"), []

    class Fetched:
        def __init__(self, root: Path, **arguments: object) -> None:
            asked.append(arguments)
            if not (root / "dtd").exists():
                shutil.copytree(sound / "dtd", root / "dtd")

    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=r"task 'DTD' is known, .*, or let it be fetched there with task.download=true"):
        open_task("DTD", tmp_path / "data")
    with monkeypatch.context() as patched:
        patched.setattr(datasets, "DTD", Fetched)
        fetch("DTD", tmp_path / "data")
    assert [each["split"] for each in asked] == ["train", "val", "test"]
    assert all(each["download"] is True for each in asked)
    assert len(open_task("DTD", tmp_path / "data", download=True).views["test"]) == 4


def test_a_damaged_copy_is_told_in_one_line(sample: Make, tmp_path: Path) -> None:
    folder = sample("torchvision")
    (folder / "dtd/dtd/labels/test1.txt").unlink()
    with pytest.raises(DataError, match=r"dtd: torchvision's DTD cannot be read there \(.*test1.txt.*\); remove"):
        open_task(str(folder))
    wrong = tmp_path / "other/cifar-10-batches-py"
    wrong.mkdir(parents=True)
    (wrong / "batches.meta").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")  # a pickle that is not CIFAR's
    with pytest.raises(DataError, match=r"torchvision's CIFAR10 cannot be read there \(Dataset not found or corrupted"):
        open_task("CIFAR10", tmp_path / "other")
