from pathlib import Path

import pytest

from petlas.search.run_files import Carried, Files, Folder


@pytest.fixture(params=["folder", "carried"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    (tmp_path / "old").write_bytes(b"before")
    return Folder(tmp_path) if request.param == "folder" else Carried({"old": b"before"})


def test_what_is_written_is_read_and_what_is_not_there_is_none(files: Files) -> None:
    assert files.read("old") == b"before"
    assert files.file("new/deep").read() is None
    files.file("new/deep").write(b"1")
    files.write("old", b"after")
    assert (files.read("new/deep"), files.file("old").read()) == (b"1", b"after")


def test_what_was_written_is_sent_back_once_and_can_still_be_read() -> None:
    files = Carried({"a": b"brought"})
    assert files.unsent() == {}
    files.write("b", b"1")
    files.write("b", b"2")
    assert files.unsent() == {"b": b"2"}
    assert files.unsent() == {}
    assert files.read("b") == b"2"


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Folder(tmp_path)
    files.write("a", b"1")

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("petlas.files.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write("a", b"2")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert files.read("a") == b"1"


def test_further_files_are_brought_and_what_was_written_goes_before_them() -> None:
    files = Carried({"a": b"old", "b": b"kept"})
    files.write("c", b"own")
    files.bring({"a": b"new", "c": b"brought"})
    assert [files.read(name) for name in "abcd"] == [b"new", b"kept", b"own", None]
