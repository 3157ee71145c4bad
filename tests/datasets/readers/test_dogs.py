from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from petlas.datasets import DataError, open_task

Make = Callable[[str], Path]


def test_classes_are_named_as_their_folders(sample: Make) -> None:
    task = open_task(str(sample("dogs")))
    assert task.classes == ("Big cat", "Big dog")
    assert {name: len(view) for name, view in task.views.items()} == {"train": 6, "val": 2, "trainval": 8, "test": 4}
    assert task.views["test"].source.name(0) == "Images/n02085620-Big_cat/8.png"


def test_a_damaged_copy_is_told_in_one_line(sample: Make) -> None:
    folder = sample("dogs")
    savemat(folder / "test_list.mat", {"file_list": np.array([["a.jpg"], ["b.jpg"]], object), "labels": [[1]]})
    with pytest.raises(DataError, match=r"test_list.mat: there must be as many of each, got 2 images, 1 labels"):
        open_task(str(folder))
