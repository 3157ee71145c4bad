import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from petlas.datasets import hashing
from petlas.datasets.hashing import content_hashes
from petlas.datasets.task import DataError

NAMES = ("a", "sub/b")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        os.utime(path, (10, 10))
    return tmp_path / "root"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read for hashing."""
    read: list[str] = []
    real: Callable[..., object] = hashlib.file_digest

    def digest(file: object, method: str) -> object:
        read.append(file.name)  # type: ignore[attr-defined]
        return real(file, method)

    monkeypatch.setattr(hashing.hashlib, "file_digest", digest)
    return read


def test_hashes_are_of_contents_in_order(root: Path) -> None:
    expected = [hashlib.sha256(name.encode()).hexdigest() for name in NAMES]
    assert content_hashes(root, NAMES) == expected
    assert content_hashes(root, NAMES[::-1]) == expected[::-1]


def test_an_unchanged_file_is_read_once(root: Path, reads: list[str]) -> None:
    first = content_hashes(root, NAMES)
    assert len(reads) == 2
    assert content_hashes(root, NAMES) == first
    assert len(reads) == 2


@pytest.mark.parametrize("text", ["longer than before", "z"])
def test_a_changed_file_is_read_again(root: Path, reads: list[str], text: str) -> None:
    first = content_hashes(root, NAMES)
    (root / "a").write_text(text)
    os.utime(root / "a", (20, 20))
    second = content_hashes(root, NAMES)
    assert second[0] == hashlib.sha256(text.encode()).hexdigest()
    assert second[1] == first[1]
    assert len(reads) == 3


def test_a_file_written_just_now_is_not_yet_remembered(root: Path) -> None:
    (root / "a").write_text("1")
    stamp = (root / "a").stat().st_mtime_ns
    first = content_hashes(root, NAMES)
    (root / "a").write_text("2")
    os.utime(root / "a", ns=(stamp, stamp))  # as a file system with a coarse clock would have it
    assert content_hashes(root, NAMES)[0] != first[0]


@pytest.mark.parametrize("damage", ["", "[1]", '{"a": 3}', '{"a": [1, 2]}', "{", "\udcff"])
def test_a_damaged_memory_is_replaced(root: Path, cache: Path, damage: str) -> None:
    first = content_hashes(root, NAMES)
    (memory,) = cache.glob("hashes-*.json")
    memory.write_bytes(damage.encode(errors="surrogateescape"))
    assert content_hashes(root, NAMES) == first
    assert set(json.loads(memory.read_text())) == set(NAMES)


def test_what_others_have_learned_is_kept(root: Path, cache: Path) -> None:
    content_hashes(root, ["a"])
    content_hashes(root, ["sub/b"])
    (memory,) = cache.glob("hashes-*.json")
    assert set(json.loads(memory.read_text())) == set(NAMES)


def test_an_unwritable_cache_costs_only_time(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert content_hashes(root, NAMES, tmp_path / "file") == content_hashes(root, NAMES)


def test_a_missing_file_is_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"root/gone: the image cannot be read \(No such file"):
        content_hashes(root, ["a", "gone"])
