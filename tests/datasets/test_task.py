import pickle
from pathlib import Path

import numpy as np
import pytest

from petlas.datasets.sources import ArraySource
from petlas.datasets.task import DataError, Split, Task
from petlas.datasets.vtab import open_vtab


def split_of(labels: list[int], seed: int = 0) -> Split:
    images = np.random.RandomState(seed).randint(0, 256, (len(labels), 4, 4), dtype=np.uint8)
    return Split(ArraySource(images), np.array(labels, dtype=np.int64))


def task_of(classes: tuple[str, ...] = ("a", "b"), **parts: Split) -> Task:
    splits = {name: split_of([0, 1], seed) for seed, name in enumerate(("train", "val", "trainval", "test"))}
    return Task("toy", classes, splits | parts)


def test_a_split_needs_one_label_per_image() -> None:
    with pytest.raises(DataError, match="one label for each image"):
        Split(ArraySource(np.zeros((3, 4, 4), np.uint8)), np.zeros(2, np.int64))


def test_labels_cannot_be_changed_and_do_not_follow_the_callers_array() -> None:
    labels = np.array([0, 1])
    split = Split(ArraySource(np.zeros((2, 4, 4), np.uint8)), labels)
    labels[0] = 1
    assert split.labels.tolist() == [0, 1]
    assert split.labels.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        split.labels[0] = 1


def test_a_task_has_exactly_the_four_splits() -> None:
    assert list(task_of().splits) == ["train", "val", "trainval", "test"]
    with pytest.raises(DataError, match="must be train, val, trainval, test"):
        Task("toy", ("a", "b"), {"train": split_of([0, 1])})
    with pytest.raises(DataError, match="extra"):
        task_of(extra=split_of([0]))


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_outside_the_classes_is_refused(label: int) -> None:
    with pytest.raises(DataError, match=rf"split val label {label} is out of range 0\.\.1"):
        task_of(val=split_of([0, label]))


def test_an_empty_split_and_a_single_class_are_refused() -> None:
    with pytest.raises(DataError, match="split test is empty"):
        task_of(test=split_of([]))
    with pytest.raises(DataError, match="two classes or more, got a"):
        task_of(("a",))


def test_the_fingerprint_follows_the_images_and_labels_of_train_and_val_only() -> None:
    whole = task_of()
    assert whole.fingerprint == task_of().fingerprint
    assert whole.fingerprint == task_of(test=split_of([1, 1], seed=9)).fingerprint
    for name in ("train", "val"):
        assert whole.fingerprint != task_of(**{name: split_of([0, 1], seed=9)}).fingerprint
        old = whole.splits[name].source
        assert whole.fingerprint != task_of(**{name: Split(old, np.array([1, 0]))}).fingerprint
    swapped = task_of(train=whole.splits["val"], val=whole.splits["train"])
    assert whole.fingerprint != swapped.fingerprint


def test_the_fingerprint_never_reads_the_test_images(vtab: Path) -> None:
    task = open_vtab(vtab)
    for name in task.splits["test"].source.names:  # type: ignore[attr-defined]
        (vtab / name).unlink()
    assert len(task.fingerprint) == 64


def test_a_task_survives_pickling() -> None:
    task = task_of()
    copy = pickle.loads(pickle.dumps(task))
    assert copy.fingerprint == task.fingerprint
    assert copy.num_classes == 2
