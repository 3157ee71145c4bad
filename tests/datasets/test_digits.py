import numpy as np
from sklearn.datasets import load_digits

from petlas.datasets.digits import open_digits


def test_the_splits_have_their_sizes_and_every_class_its_share() -> None:
    task = open_digits()
    assert {name: len(split) for name, split in task.splits.items()} == {
        "train": 800, "val": 200, "trainval": 1000, "test": 797,
    }  # fmt: skip
    assert task.classes == tuple("0123456789")
    for split in task.splits.values():
        counts = np.bincount(split.labels)
        assert counts.max() - counts.min() <= 0.1 * len(split.labels) / 10 + 2


def test_each_of_the_1797_images_is_in_trainval_or_test_once() -> None:
    task = open_digits()
    seen = [
        np.asarray(task.splits[s].source.image(i))[..., 0]
        for s in ("trainval", "test")
        for i in range(len(task.splits[s]))
    ]
    expected = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    assert sorted(image.tobytes() for image in seen) == sorted(image.tobytes() for image in expected)


def test_the_split_is_always_the_same() -> None:
    first, second = open_digits(), open_digits()
    assert first.fingerprint == second.fingerprint
    assert first.splits["train"].labels[:10].tolist() == second.splits["train"].labels[:10].tolist()
