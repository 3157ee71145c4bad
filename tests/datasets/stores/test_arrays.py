from pathlib import Path

import numpy as np
import pytest

from petlas.datasets.stores import load_array, writing_array


def test_an_array_is_written_in_parts_and_mapped(tmp_path: Path) -> None:
    whole = np.arange(30, dtype=np.float32).reshape(5, 3, 2)
    with writing_array(tmp_path / "a.npy", whole.shape, np.float32) as write:
        write(whole[:2])
        write(whole[2:])
        assert load_array(tmp_path / "a.npy", whole.shape, np.float32) is None
    array = load_array(tmp_path / "a.npy", (5,), np.float32)
    assert isinstance(array, np.memmap)
    np.testing.assert_array_equal(array, whole)


@pytest.mark.parametrize(("shape", "dtype"), [((4,), np.float32), ((5, 2), np.float32), ((5, 3, 2), np.uint8)])
def test_another_array_is_none(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    with writing_array(tmp_path / "a.npy", (5, 3, 2), np.float32) as write:
        write(np.zeros((5, 3, 2), np.float32))
    assert load_array(tmp_path / "a.npy", shape, dtype) is None


def test_a_file_that_was_cut_short_is_none(tmp_path: Path) -> None:
    with writing_array(tmp_path / "a.npy", (5, 3), np.uint8) as write:
        write(np.zeros((4, 3), np.uint8))
    assert load_array(tmp_path / "a.npy", (5, 3), np.uint8) is None


def test_an_array_for_which_there_is_no_room_is_not_begun(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"it takes .* GB and .* GB are free"),
        writing_array(tmp_path / "a.npy", (2**40, 2**20), np.uint8),
    ):
        pass
    assert not list(tmp_path.iterdir())
