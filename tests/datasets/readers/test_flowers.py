from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from petlas.datasets import DataError, open_task

Make = Callable[[str], Path]


def test_the_official_split_is_kept(sample: Make) -> None:
    task = open_task(str(sample("flowers")))
    assert {name: len(view) for name, view in task.views.items()} == {"train": 6, "val": 2, "trainval": 8, "test": 4}
    assert task.classes == ("class 1", "class 2")
    assert task.views["test"].source.name(0) == "jpg/image_00009.jpg"
    assert task.views["train"].targets.tolist() == [0, 1, 0, 1, 0, 1]
    assert task.split_seed is None


def test_torchvisions_name_finds_it(sample: Make) -> None:
    folder = sample("flowers")
    folder.rename(folder.parent / "flowers-102")
    assert open_task("Flowers102", folder.parent).layout == "flowers"


def test_a_damaged_copy_is_told_in_one_line(sample: Make) -> None:
    folder = sample("flowers")
    (folder / "jpg/image_00003.jpg").rename(folder / "jpg/image_3.jpg")
    with pytest.raises(DataError, match=r"setid.mat trnid 3: image jpg/image_00003.jpg does not exist"):
        open_task(str(folder))
    savemat(folder / "imagelabels.mat", {"labels": np.array([[1, 2, 1]])})
    with pytest.raises(DataError, match=r"setid.mat: trnid holds 4, and there are labels of 3"):
        open_task(str(folder))
    savemat(folder / "setid.mat", {"trnid": np.array([[1]])})
    with pytest.raises(DataError, match=r"setid.mat: it must hold trnid, valid, tstid, and 'valid' is missing"):
        open_task(str(folder))
    (folder / "setid.mat").write_bytes(b"not MATLAB")
    with pytest.raises(DataError, match=r"setid.mat: the file must be readable MATLAB data \("):
        open_task(str(folder))
