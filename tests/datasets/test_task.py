import dataclasses
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from petlas.datasets import VIEWS, ArraySource, DataError, Task, View, open_task


def source_of(count: int, seed: int = 0) -> ArraySource:
    return ArraySource(np.random.RandomState(seed).randint(0, 256, (count, 4, 4), dtype=np.uint8))


def task_of(
    train: Sequence[int] = (0, 1),
    val: Sequence[int] = (0, 1),
    test: Sequence[int] = (0, 1),
    classes: tuple[str, ...] = ("a", "b"),
    seed: int = 0,
    test_seed: int = 1,
    **extra: View,
) -> Task:
    whole = View.whole(source_of(len(train) + len(val), seed), np.array([*train, *val], dtype=np.int64))
    views = {
        "train": whole.subset(range(len(train))),
        "val": whole.subset(range(len(train), len(whole))),
        "trainval": whole,
        "test": View.whole(source_of(len(test), test_seed), np.array(test, dtype=np.int64)),
    }
    return Task("toy", classes, "single_label", views | extra, "toy")


def labels_of(labels: Sequence[int]) -> View:
    return View.whole(source_of(len(labels)), np.array(labels, dtype=np.int64))


def test_a_view_needs_one_target_per_image() -> None:
    with pytest.raises(DataError, match="one target for each image"):
        View.whole(source_of(3), np.zeros(2, np.int64))
    with pytest.raises(DataError, match=r"must be 0\.\.2, got 0\.\.3"):
        View(source_of(3), np.array([0, 3]), np.zeros(2, np.int64))


def test_targets_cannot_be_changed_and_do_not_follow_the_callers_array() -> None:
    labels = np.array([0, 1])
    view = View.whole(source_of(2), labels)
    labels[0] = 1
    assert view.targets.tolist() == [0, 1]
    assert view.targets.dtype == view.indices.dtype == np.int64
    for values in (view.targets, view.indices):
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 1


def test_a_task_has_exactly_the_four_views() -> None:
    assert list(task_of().views) == ["train", "val", "trainval", "test"]
    with pytest.raises(DataError, match="must be train, val, trainval, test"):
        Task("toy", ("a", "b"), "single_label", {"train": labels_of([0, 1])}, "toy")
    with pytest.raises(DataError, match="extra"):
        task_of(extra=labels_of([0]))


def test_what_is_learned_from_has_one_source_and_test_another() -> None:
    with pytest.raises(DataError, match="must share one source"):
        task_of(trainval=labels_of([0]))
    with pytest.raises(DataError, match="source of its own"):
        Task("toy", ("a", "b"), "single_label", dict.fromkeys(VIEWS, labels_of([0, 1])), "toy")


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_outside_the_classes_is_refused(label: int) -> None:
    with pytest.raises(DataError, match=rf"view val label {label} is out of range 0\.\.1"):
        task_of(val=[0, label])


def test_an_empty_split_and_a_single_class_are_refused() -> None:
    with pytest.raises(DataError, match="view test is empty"):
        task_of(test=[])
    with pytest.raises(DataError, match="two classes or more, got a"):
        task_of(classes=("a",))


def test_the_fingerprint_follows_the_images_and_targets_of_train_and_val_only() -> None:
    whole = task_of()
    assert whole.fingerprint == task_of().fingerprint == task_of(test=[1, 1], test_seed=9).fingerprint
    assert whole.test_fingerprint != task_of(test=[1, 1]).test_fingerprint
    assert whole.test_fingerprint != task_of(test_seed=9).test_fingerprint
    changed = (
        task_of(seed=9), task_of(train=[1, 0]), task_of(val=[1, 0]), task_of(train=[0, 1, 0], val=[1]),
        task_of(classes=("a", "b", "c")),
    )  # fmt: skip
    assert len({whole.fingerprint, *(task.fingerprint for task in changed)}) == 6
    assert {task.test_fingerprint for task in changed} == {whole.test_fingerprint}
    parts = whole.views
    views = {"train": parts["val"], "val": parts["train"], "trainval": parts["trainval"], "test": parts["test"]}
    swapped = dataclasses.replace(whole, views=views)
    assert whole.fingerprint != swapped.fingerprint


def test_the_fingerprint_never_reads_the_test_images(vtab: Path) -> None:
    task = open_task(str(vtab))
    test = task.views["test"].source
    for index in range(len(test)):
        (vtab / test.name(index)).unlink()
    assert len(task.fingerprint) == 64


def test_a_task_survives_pickling() -> None:
    task = dataclasses.replace(task_of(), notes=("odd",), split_seed=3, tolerated_overlap=0.5)
    copy = pickle.loads(pickle.dumps(task))
    fields = ("name", "classes", "kind", "layout", "notes", "split_seed", "tolerated_overlap")
    assert [getattr(copy, field) for field in fields] == [getattr(task, field) for field in fields]
    assert copy.views["train"].source is copy.views["trainval"].source
    assert copy.fingerprint == task.fingerprint
    assert copy.num_classes == 2


def test_views_of_a_view_count_within_it() -> None:
    view = labels_of([3, 1, 2, 0]).subset([3, 1])
    assert view.indices.tolist() == [3, 1]
    assert view.targets.tolist() == [0, 1]
    assert view.subset([1]).indices.tolist() == [1]
    assert (
        view.fingerprint() == labels_of([3, 1, 2, 0]).subset([3, 1]).fingerprint() != view.subset([1, 0]).fingerprint()
    )


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_a_sample_of_sorted_data_is_seeded_shuffled_and_even(kind: str) -> None:
    labels = np.repeat(np.arange(10), 30)
    targets = labels if kind == "single_label" else np.eye(10, dtype=bool)[labels]
    view = View.whole(source_of(300), targets)
    sample = view.sample(45, seed=1)
    assert len(set(sample.indices.tolist())) == len(sample) == 45
    assert sorted(np.bincount(labels[sample.indices])) == [4] * 5 + [5] * 5
    assert (view.targets[sample.indices] == sample.targets).all()
    assert len(set(labels[sample.indices[:16]])) > 5  # a batch from its beginning sees most of the classes
    assert view.sample(45, seed=1).indices.tolist() == sample.indices.tolist() != view.sample(45, 2).indices.tolist()


def test_a_sample_takes_all_there_is_of_a_small_class_and_no_more_than_the_view() -> None:
    view = labels_of([0] * 20 + [1] * 2)
    assert np.bincount(view.sample(12, 0).targets).tolist() == [10, 2]
    assert sorted(view.sample(1000, 0).indices) == list(range(22))
    with pytest.raises(DataError, match="1 image or more, got 0"):
        view.sample(0, 0)


def test_folds_hold_every_image_out_once_and_every_class_evenly() -> None:
    task = task_of(train=[0] * 40 + [1] * 19, val=[0] * 5 + [1] * 3)
    folds = task.folds(4, seed=0)
    held = np.concatenate([out.indices for _, out in folds])
    assert sorted(held) == list(range(67))
    for learned, out in folds:
        assert not set(learned.indices) & set(out.indices)
        assert len(learned) + len(out) == 67
        assert np.bincount(out.targets)[0] in (11, 12)
        assert np.bincount(out.targets)[1] in (5, 6)
        assert len(out) in (16, 17)
        assert learned.indices.tolist() == sorted(learned.indices)
    assert [out.indices.tolist() for _, out in task.folds(4, 0)] == [out.indices.tolist() for _, out in folds]
    assert [out.indices.tolist() for _, out in task.folds(4, 1)] != [out.indices.tolist() for _, out in folds]


def test_the_number_of_folds_has_limits() -> None:
    task = task_of(train=[0] * 4 + [1] * 3, val=[0, 1])
    assert task.most_folds == 4
    assert task_of(train=[0] * 9, val=[1]).most_folds == 2
    for k in (1, 10):
        with pytest.raises(DataError, match=rf"folds must be 2\.\.9, .* got {k}"):
            task.folds(k, 0)
    assert all(len(out) == 1 for _, out in task.folds(9, 0))


def test_a_multi_label_task_has_rows_of_classes() -> None:
    rows = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], dtype=bool)
    whole = View.whole(source_of(4), rows)
    views = {"train": whole.subset([0, 1]), "val": whole.subset([2, 3]), "trainval": whole}
    views["test"] = View.whole(source_of(4, 1), rows)
    task = Task("toy", ("a", "b"), "multi_label", views, "toy")
    assert whole.targets.dtype == np.bool_
    assert {len(out) for _, out in task.folds(2, 0)} == {2}
    assert all(out.targets.sum(axis=0).tolist() == [1, 1] for _, out in task.folds(2, 0))
    flipped = {name: View(view.source, view.indices, view.targets[:, ::-1]) for name, view in views.items()}
    assert task.fingerprint != Task("toy", ("a", "b"), "multi_label", flipped, "toy").fingerprint
    with pytest.raises(DataError, match=r"targets of multi_label must be \(2, 3\) in view train, got \(2, 2\)"):
        Task("toy", ("a", "b", "c"), "multi_label", views, "toy")
    with pytest.raises(DataError, match=r"targets of single_label must be \(2,\)"):
        Task("toy", ("a", "b"), "single_label", views, "toy")
