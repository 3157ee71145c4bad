from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from petlas.datasets import DataError, open_task

Make = Callable[[str], Path]


def test_the_devkit_says_labels_and_names(sample: Make) -> None:
    task = open_task(str(sample("cars")))
    assert task.classes == ("AM General Hummer", "Acura TL")
    assert {name: len(view) for name, view in task.views.items()} == {"train": 6, "val": 2, "trainval": 8, "test": 4}
    assert task.views["test"].source.name(3) == "cars_test/11.jpg"
    assert task.views["test"].targets.tolist() == [0, 1, 0, 1]


def test_a_damaged_copy_is_told_in_one_line(sample: Make) -> None:
    folder = sample("cars")
    (folder / "cars_test/9.jpg").unlink()
    with pytest.raises(DataError, match=r"withlabels.mat entry 2: image cars_test/9.jpg does not exist"):
        open_task(str(folder))
    unlabelled = np.array([[("9.jpg",)]], dtype=[("fname", object)])
    savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": unlabelled})
    with pytest.raises(DataError, match=r"its annotations must name fname and class; those of test come `withlabels`"):
        open_task(str(folder))
    (folder / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(DataError, match=r"cars_test_annos_withlabels.mat: the labels of test are missing"):
        open_task(str(folder))
