import os
import stat
from pathlib import Path
from typing import Any

import pytest

from petlas.files import making, replacing, write_bytes, write_json, write_text


def test_a_file_is_written_with_its_folder_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "löng text")
    write_text(path, "short")
    assert path.read_text(encoding="utf-8") == "short"
    write_json(path, {"a": [1]})
    assert path.read_text() == '{\n  "a": [\n    1\n  ]\n}\n'
    write_bytes(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_file_has_the_rights_that_any_new_file_has(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text(tmp_path / "ours", "x")
    plain, ours = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours"))
    assert ours == plain


@pytest.mark.parametrize(("step", "error"), [("fsync", OSError("disk full")), ("replace", KeyboardInterrupt())])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(type(error)):
            write_text(path, "a new and longer text")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_told_with_the_file_that_was_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.txt'"):
        write_text(tmp_path / "a.txt", "x")


def test_what_is_written_reaches_the_disk_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (steps.append(name), real(*a))[1])
    write_text(tmp_path / "a.txt", "x")
    assert steps[-2:] == ["fsync", "replace"]


@pytest.mark.parametrize("folder", [True, False])
def test_what_others_write_takes_its_name_when_it_is_done_and_disappears_when_it_fails(
    tmp_path: Path, folder: bool
) -> None:
    def write(place: Path) -> None:
        (place / "a.txt" if folder else place).write_text("x")

    path = tmp_path / "deep" / "out"
    with making(path, folder) as place:
        write(place)
        assert not path.exists()
    assert (path / "a.txt" if folder else path).read_text() == "x"
    with pytest.raises(ZeroDivisionError), making(path.with_name("other"), folder) as place:
        write(place)
        raise ZeroDivisionError
    assert os.listdir(path.parent) == ["out"]
