import os
import subprocess
import sys
from pathlib import Path

import pytest

from petlas.datasets.cache import cache_folder, replacing, sweep


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_is_the_argument_then_the_environment_then_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_folder(tmp_path / "x") == tmp_path / "x"
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("PETLAS_CACHE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/petlas"


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert left(tmp_path) == []
    with replacing(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert left(tmp_path) == ["a.npy"]
    assert path.read_bytes() == b"whole"


def test_who_reads_the_old_file_keeps_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        with replacing(path) as file:
            file.write(b"new")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"


def test_sweeping_removes_what_the_dead_left_and_nothing_else(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    host = os.uname().nodename
    dead, foreign, old = (
        tmp_path / f"key.npy.{pid}.0a1b2c3d.{where}.tmp"
        for pid, where in ((ended.pid, host), (ended.pid, "elsewhere.example"), (1, "elsewhere.example"))
    )
    for path in (dead, foreign, old, tmp_path / "key.npy", tmp_path / "someone else's.tmp"):
        path.touch()
    os.utime(old, (0, 0))
    with replacing(tmp_path / "b.npy"):
        sweep(tmp_path)
    assert left(tmp_path) == sorted(["b.npy", foreign.name, "key.npy", "someone else's.tmp"])
