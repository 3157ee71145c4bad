from pathlib import Path

import pytest

from petlas.datasets import DataError
from petlas.datasets.readers.files import check_lengths, read_columns, read_json


def test_the_pairs_of_an_object_are_kept_even_where_a_key_is_there_twice(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1, "a": [{"b": 2}]}')
    assert read_json(tmp_path / "a.json") == [("a", 1), ("a", [[("b", 2)]])]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe{", b"[" * 100_000])
def test_what_is_no_json_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=r"a.json: the file must be readable JSON"):
        read_json(tmp_path / "a.json")


def test_columns_are_parted_at_the_first_blank(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 a b.png\n 2   c.png \n")
    assert read_columns(tmp_path / "a.txt", "ID PATH") == [("1", "a b.png"), ("2", "c.png")]


def test_lengths_are_compared(tmp_path: Path) -> None:
    check_lengths(tmp_path, a=[1], b=[2])
    with pytest.raises(DataError, match=r"got 1 a, 2 b; fetch"):
        check_lengths(tmp_path, a=[1], b=[2, 3])
