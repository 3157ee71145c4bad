from pathlib import Path

import pytest

from petlas.datasets.errors import DataError
from petlas.datasets.lists import (
    check_disjoint,
    check_duplicates,
    check_existence,
    read_classes,
    read_lines,
    read_list,
)


def written(tmp_path: Path, content: bytes, name: str = "list.txt") -> Path:
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def test_a_line_is_an_image_and_what_stands_behind_it(tmp_path: Path) -> None:
    entries = read_list(written(tmp_path, b"\xef\xbb\xbfa b.png 3\r\n./c//d.png\tx y\ncaf\xe9.png  0\n\n"))
    assert entries.names == ("a b.png", "c/d.png", "caf\udce9.png")
    assert entries.labels == ("3", "x y", "0")
    assert entries.places() == ("list.txt line 1", "list.txt line 2", "list.txt line 3")


def test_an_image_may_stand_alone_where_that_is_allowed(tmp_path: Path) -> None:
    path = written(tmp_path, b"a.png\nb.png x\n")
    with pytest.raises(DataError, match=r"list\.txt line 1: expected `IMAGE LABEL`, got 'a\.png'"):
        read_list(path)
    assert read_list(path, unlabelled=True).labels == ("", "x")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", r"list\.txt: the list is empty"),
        (b"a.png 1\n\nb.png 2", r"list\.txt line 2: expected"),
        ("a.png 1".encode("utf-16"), r"list\.txt: the list cannot be read \(it is UTF-16\); write it again as UTF-8"),
    ],
)
def test_a_faulty_list_is_named(tmp_path: Path, content: bytes, fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        read_list(written(tmp_path, content))


def test_a_missing_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: the words cannot be read"):
        read_lines(tmp_path / "gone", "the words")


def test_classes_are_one_a_line(tmp_path: Path) -> None:
    assert read_classes(written(tmp_path, "far star\nCafé\n0\n".encode())) == ("far star", "Café", "0")
    with pytest.raises(DataError, match=r"line 2: '' is empty or a repeat"):
        read_classes(written(tmp_path, b"a\n\nb"))


def test_images_are_there_once_in_one_list_and_exist(tmp_path: Path) -> None:
    first = read_list(written(tmp_path, b"a.png 1\nb.png 1\na.png 2", "first.txt"))
    second = read_list(written(tmp_path, b"c.png 1\nb.png 1", "second.txt"))
    with pytest.raises(DataError, match=r"first\.txt line 3: a\.png is already in line 1"):
        check_duplicates(first)
    with pytest.raises(DataError, match=r"second\.txt line 2: b\.png is also in first\.txt line 2"):
        check_disjoint(first, second)
    check_duplicates(second)
    (tmp_path / "c.png").touch()
    with pytest.raises(DataError, match=r"second\.txt line 2: image b\.png does not exist"):
        check_existence(tmp_path, second)
    (tmp_path / "b.png").touch()
    check_existence(tmp_path, second)
    extra = read_list(written(tmp_path, b"b.png 1 0", "third.txt"))
    with pytest.raises(
        DataError, match=r"third\.txt line 1: there is an extra column: b\.png is followed by '1' and '0'"
    ):
        check_existence(tmp_path, extra)
