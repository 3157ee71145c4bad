import numpy as np
import pytest
from sklearn.datasets import load_digits

from petlas.datasets import open_task
from petlas.datasets.readers import digits


def test_the_splits_have_their_sizes_and_every_class_its_share() -> None:
    task = open_task("digits")
    assert {name: len(view) for name, view in task.views.items()} == {
        "train": 800, "val": 200, "trainval": 1000, "test": 797,
    }  # fmt: skip
    assert task.classes == tuple("0123456789")
    for view in task.views.values():
        counts = np.bincount(view.targets)
        assert counts.max() - counts.min() <= 0.1 * len(view.targets) / 10 + 2


def test_each_of_the_1797_images_is_in_trainval_or_test_once() -> None:
    task = open_task("digits")
    seen = [
        np.asarray(task.views[v].source.image(i))[..., 0] for v in ("trainval", "test") for i in task.views[v].indices
    ]
    expected = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    assert sorted(image.tobytes() for image in seen) == sorted(image.tobytes() for image in expected)


def test_the_split_is_always_the_same() -> None:
    first, second = open_task("digits"), open_task("digits")
    assert first.fingerprint == second.fingerprint
    assert first.views["train"].targets[:10].tolist() == second.views["train"].targets[:10].tolist()


def test_where_scikit_learn_keeps_its_file_elsewhere_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    read = digits._table()
    asked: list[str] = []
    monkeypatch.setattr(digits, "find_spec", asked.append)
    found = digits._table.__wrapped__()
    assert asked == ["sklearn"]
    assert found.shape == (1797, 65)
    assert (found == read).all()
