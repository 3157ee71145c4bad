import os
from pathlib import Path

import pytest
import torch

from petlas.search.training.stream_files import StreamFiles


def put(files: StreamFiles, number: int, stream: torch.Tensor, age: int = 0) -> None:
    with files.building(), files.writing(number, stream) as write:
        write(stream[:1])
        write(stream[1:])
    for path in files.folder.glob(f"{files.key}-{number}-*"):
        os.utime(path, (10**9 - age, 10**9 - age))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_stream_comes_back_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    files, stream = StreamFiles(tmp_path, "k", 3, 2**20), torch.randn(3, 5, 2).to(dtype)
    put(files, 4, stream)
    found = files.load(4)
    assert found is not None
    assert found.dtype == dtype
    assert torch.equal(found, stream)
    assert files.load(3) is None
    assert StreamFiles(tmp_path, "other", 3, 2**20).load(4) is None
    assert files.load_all([4, 3]) is None
    assert list(files.load_all([4]) or ()) == [4]


@pytest.mark.parametrize("order", [(0, 3, 1, 2), (0, 2, 3, 1)])
def test_axes_come_back_as_they_lay_in_memory(tmp_path: Path, order: tuple[int, ...]) -> None:
    files, stream = StreamFiles(tmp_path, "k", 3, 2**20), torch.randn(3, 5, 2, 4).permute(order)
    put(files, 0, stream)
    found = files.load(0)
    assert found is not None
    assert torch.equal(found, stream)
    assert found.stride() == found[torch.tensor([2, 0, 1])].stride() == stream.stride()


def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    stream = torch.zeros(4, 64)  # 1 KiB, and a header
    other, files = StreamFiles(tmp_path, "other", 4, 4000), StreamFiles(tmp_path, "k", 4, 4000)
    for number, age in ((0, 30), (1, 10), (2, 20)):
        put(other, number, stream, age)
    assert files.make_room([5], stream.nbytes)
    assert [other.load(number) is not None for number in range(3)] == [False, True, True]


def test_what_is_wanted_is_not_removed_and_what_cannot_fit_removes_nothing(tmp_path: Path) -> None:
    stream = torch.zeros(4, 64)
    files = StreamFiles(tmp_path, "k", 4, 2500)
    put(files, 0, stream, 50)
    put(files, 1, stream, 10)
    assert not files.make_room([0, 1, 2], stream.nbytes)
    assert files.load_all([0, 1])
    assert files.make_room([0, 2], stream.nbytes)
    assert files.load(0) is not None
    assert files.load(1) is None


def test_a_mapped_stream_outlives_its_file(tmp_path: Path) -> None:
    files, stream = StreamFiles(tmp_path, "k", 4, 2000), torch.randn(4, 64)
    put(files, 0, stream)
    kept = files.load(0)
    assert files.make_room([1], 1500)
    assert not list(tmp_path.glob("*.npy"))
    assert kept is not None
    assert torch.equal(kept, stream)
