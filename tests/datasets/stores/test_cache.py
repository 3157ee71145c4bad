import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from petlas.datasets import DataError
from petlas.datasets.stores.cache import cache_folder, exclusive, sweep
from petlas.files import replacing


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


def test_whoever_has_no_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number that is nobody's."""

    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("PETLAS_CACHE")
    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(DataError, match=r"must have a place, and ~/.cache/petlas is none .*point PETLAS_CACHE to"):
        cache_folder()


def test_sweeping_removes_what_the_dead_left_and_nothing_else(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    host = os.uname().nodename
    dead, foreign, old = (
        tmp_path / f".key.npy.{pid}.0a1b2c3d.{where}.tmp"
        for pid, where in ((ended.pid, host), (ended.pid, "elsewhere.example"), (1, "elsewhere.example"))
    )
    for path in (dead, foreign, old, tmp_path / "key.npy", tmp_path / "someone else's.tmp"):
        path.touch()
    os.utime(old, (0, 0))
    with replacing(tmp_path / "b.npy"):
        sweep(tmp_path)
    assert left(tmp_path) == sorted(["b.npy", foreign.name, "key.npy", "someone else's.tmp"])


def test_one_at_a_time_is_in_the_block_and_the_lock_is_cleared_away(tmp_path: Path) -> None:
    inside: list[int] = []

    def work(number: int) -> None:
        with exclusive(tmp_path / "a.npy"):
            inside.append(number)
            time.sleep(0.05)
            inside.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside[::2] == inside[1::2]
    assert left(tmp_path) == []


def test_where_locks_fail_all_go_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with exclusive(tmp_path / "a.npy"), exclusive(tmp_path / "a.npy"):
        pass
