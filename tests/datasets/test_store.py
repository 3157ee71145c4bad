import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petlas.datasets.catalog import open_task
from petlas.datasets.sources import FileSource
from petlas.datasets.store import open_store
from petlas.datasets.task import DataError, Split
from petlas.datasets.vtab import open_vtab

Draw = Callable[..., Path]

# Opens the store of the folder argv[1] and prints how many images it decoded itself; `stop` images in, it waits.
CHILD = """
import sys, threading, time
from pathlib import Path
from petlas.datasets import cache, open_store, open_task, sources
root, locks, stop = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if locks == "without locks":
    cache.fcntl = None
count, real, lock = 0, sources.read_image, threading.Lock()
def read(path, place):
    global count
    with lock:
        count += 1
    if count == stop:
        print("half", flush=True)
        time.sleep(60)
    time.sleep(0.005)
    return real(path, place)
sources.read_image = read
split = open_task(str(root)).splits["trainval"]
print("ready", flush=True)
sys.stdin.readline()
assert open_store(split, 16).shape == (len(split), 3, 16, 16)
print(count, flush=True)
"""


@pytest.fixture
def split(tmp_path: Path, draw: Draw) -> Split:
    names = tuple(f"{number}.png" for number in range(12))
    for number, name in enumerate(names):
        draw(tmp_path / "images" / name, number, size=(9 + number, 14))
    return Split(FileSource(tmp_path / "images", names), np.arange(12))


@pytest.fixture
def many(tmp_path: Path, draw: Draw) -> Path:
    """A class folder of 100 images."""
    for number in range(100):
        draw(tmp_path / f"many/{'ab'[number % 2]}/{number:03}.png", number)
    return tmp_path / "many"


@contextmanager
def child(folder: Path, locks: str = "with locks", stop: int = 0) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", CHILD, str(folder), locks, str(stop)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str], text: str = "") -> str:
    assert process.stdin and process.stdout
    process.stdin.write(text)
    process.stdin.flush()
    return process.stdout.readline().strip()


def by_pillow(folder: Path, names: list[str], size: int, method: Image.Resampling) -> np.ndarray:
    rows = []
    for name in names:
        with Image.open(folder / name) as image:
            rows.append(np.array(image.convert("RGB").resize((size, size), method)))
    return np.moveaxis(np.stack(rows), 3, 1)


def stores(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.npy"))


@pytest.mark.parametrize(("interpolation", "size"), [("bicubic", 20), ("bilinear", 5), ("nearest", 14)])
def test_the_store_holds_what_pillow_makes_of_each_image(
    split: Split, tmp_path: Path, interpolation: str, size: int
) -> None:
    store = open_store(split, size, interpolation=interpolation)
    assert (store.dtype, store.shape) == (np.uint8, (12, 3, size, size))
    names = [f"{number}.png" for number in range(12)]
    method = Image.Resampling[interpolation.upper()]
    assert (np.asarray(store) == by_pillow(tmp_path / "images", names, size, method)).all()


def test_a_real_data_set_is_decoded_as_pillow_does(real_vtab: Path) -> None:
    split = open_vtab(real_vtab / "emoji_group").splits["val"]
    names = [line.rsplit(" ", 1)[0] for line in (real_vtab / "emoji_group/val200.txt").read_text().splitlines()]
    expected = by_pillow(real_vtab / "emoji_group", names, 98, Image.Resampling.BICUBIC)
    assert (open_store(split, 98) == expected).all()


def test_the_store_is_a_read_only_memory_map(split: Split) -> None:
    store = open_store(split, 8)
    assert isinstance(store, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        store[0] = 0


def test_images_are_decoded_once(split: Split, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = np.array(open_store(split, 8))
    monkeypatch.setattr(FileSource, "image", lambda *_: pytest.fail("decoded again"))
    assert (open_store(split, 8) == first).all()
    assert len(stores(cache)) == 1


def test_size_interpolation_and_content_each_make_a_store(
    split: Split, tmp_path: Path, cache: Path, draw: Draw
) -> None:
    first = np.array(open_store(split, 8))
    open_store(split, 9)
    open_store(split, 8, interpolation="nearest")
    draw(tmp_path / "images/0.png", 99, size=(9, 14))
    assert (open_store(split, 8)[0] != first[0]).any()
    assert len(stores(cache)) == 4


def test_the_same_images_elsewhere_share_the_store(split: Split, tmp_path: Path, cache: Path) -> None:
    open_store(split, 8)
    shutil.copytree(tmp_path / "images", tmp_path / "copy")
    open_store(Split(FileSource(tmp_path / "copy", split.source.names), split.labels), 8)  # type: ignore[attr-defined]
    assert len(stores(cache)) == 1


def damaged_stores(path: Path) -> Iterator[bytes | np.ndarray]:
    whole = path.read_bytes()
    yield from (whole[:-1], whole[:40], b"", b"rubbish", whole + b"more")
    yield from (np.zeros((11, 3, 8, 8), np.uint8), np.zeros((12, 3, 8, 8), np.float32), np.array([None], dtype=object))


def test_a_damaged_store_is_built_again(split: Split, cache: Path) -> None:
    first = np.array(open_store(split, 8))
    (path,) = stores(cache)
    size = path.stat().st_size
    for damage in list(damaged_stores(path)):
        path.unlink()
        if isinstance(damage, bytes):
            path.write_bytes(damage)
        else:
            np.save(path, damage)
        assert (open_store(split, 8) == first).all()
        assert path.stat().st_size == size
    assert stores(cache) == [path]


@pytest.mark.parametrize("locks", ["with locks", "without locks"])
def test_racing_processes_all_get_the_whole_store(many: Path, cache: Path, locks: str) -> None:
    with child(many, locks) as one, child(many, locks) as two, child(many, locks) as three:
        racers = (one, two, three)
        assert [line(racer) for racer in racers] == ["ready"] * 3
        for racer in racers:
            assert racer.stdin
            racer.stdin.write("go\n")
            racer.stdin.flush()
        counts = [int(line(racer)) for racer in racers]
    if locks == "with locks":
        assert sorted(counts) == [0, 0, 80]
    else:
        assert set(counts) <= {0, 80}
    assert len(stores(cache)) == 1
    assert sorted({path.suffix for path in cache.iterdir()}) in ([".npy"], [".json", ".npy"])


def test_a_build_that_was_killed_is_no_store_and_is_cleared_away(many: Path, cache: Path) -> None:
    with child(many, stop=40) as killed:
        assert line(killed) == "ready"
        assert line(killed, "go\n") == "half"
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert stores(cache) == []
    assert list(cache.glob("*.tmp"))
    split = open_task(str(many)).splits["trainval"]
    expected = by_pillow(many, list(split.source.names), 16, Image.Resampling.BICUBIC)  # type: ignore[attr-defined]
    assert (open_store(split, 16) == expected).all()
    assert len(stores(cache)) == 1
    assert {path.suffix for path in cache.iterdir()} <= {".npy", ".json"}


def test_a_broken_image_stops_the_build_and_leaves_nothing(vtab: Path, cache: Path) -> None:
    (vtab / "images/00002.png").write_bytes((vtab / "images/00002.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"images/00002\.png \(.*train800\.txt line 3\): the image cannot be read"):
        open_store(open_vtab(vtab).splits["train"], 8)
    assert {path.suffix for path in cache.iterdir()} <= {".json"}


def test_an_unwritable_cache_says_what_to_do(split: Split, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"written to .*file, which failed .* PETLAS_CACHE"):
        open_store(split, 8, tmp_path / "file")


def test_a_disk_that_fills_up_says_what_to_do(split: Split, cache: Path) -> None:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, old[1]))
    try:
        with pytest.raises(DataError, match=r"which failed .*File too large.*free space"):
            open_store(split, 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert {path.suffix for path in cache.iterdir()} <= {".json"}


def test_a_store_that_cannot_fit_is_refused_before_decoding(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage(os.curdir))(10**9, 10**9 - 10, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(FileSource, "image", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"takes 0\.0 GB and 0\.0 GB are free"):
        open_store(split, 8)


def test_a_wrong_size_or_interpolation_is_refused(split: Split) -> None:
    with pytest.raises(DataError, match="1 or more, got 0"):
        open_store(split, 0)
    with pytest.raises(DataError, match=r"unknown interpolation 'cubic'; use one of .*bicubic"):
        open_store(split, 8, interpolation="cubic")
