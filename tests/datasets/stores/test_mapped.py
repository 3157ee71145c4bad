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
from petlas.datasets.errors import DataError
from petlas.datasets.sources import FileSource
from petlas.datasets.stores import open_store

Draw = Callable[..., Path]

# Opens the store of the folder argv[1] and prints how many images it decoded itself; `stop` images in, it waits.
CHILD = """
import sys, threading, time
from pathlib import Path
from petlas.datasets import open_store, open_task, sources
from petlas.datasets.stores import cache
root, locks, stop = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if locks == "without locks":
    def refuse(self, *args, **kwargs):
        raise NotImplementedError("no locks on this drive")
    cache.FileLock.acquire = refuse
count, real, lock = 0, sources.decode_image, threading.Lock()
def read(*args):
    global count
    with lock:
        count += 1
    if count == stop:
        print("half", flush=True)
        time.sleep(60)
    time.sleep(0.005)
    return real(*args)
sources.decode_image = read
source = open_task(str(root)).views["trainval"].source
print("ready", flush=True)
sys.stdin.readline()
assert open_store(source, 16).shape == (len(source), 3, 16, 16)
print(count, flush=True)
"""


@pytest.fixture
def source(tmp_path: Path, draw: Draw) -> FileSource:
    names = tuple(f"{number}.png" for number in range(12))
    for number, name in enumerate(names):
        draw(tmp_path / "images" / name, number, size=(9 + number, 14))
    return FileSource(tmp_path / "images", names)


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
    source: FileSource, tmp_path: Path, interpolation: str, size: int
) -> None:
    store = open_store(source, size, interpolation=interpolation)
    assert (store.dtype, store.shape) == (np.uint8, (12, 3, size, size))
    names = [f"{number}.png" for number in range(12)]
    method = Image.Resampling[interpolation.upper()]
    assert (np.asarray(store) == by_pillow(tmp_path / "images", names, size, method)).all()


def test_a_real_data_set_is_decoded_as_pillow_does(real_vtab: Path) -> None:
    view = open_task(str(real_vtab / "emoji_group")).views["val"]
    names = [line.rsplit(" ", 1)[0] for line in (real_vtab / "emoji_group/val200.txt").read_text().splitlines()]
    expected = by_pillow(real_vtab / "emoji_group", names, 98, Image.Resampling.BICUBIC)
    assert (open_store(view.source, 98)[view.indices] == expected).all()


def test_the_store_is_a_read_only_memory_map(source: FileSource) -> None:
    store = open_store(source, 8)
    assert isinstance(store, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        store[0] = 0


def test_images_are_decoded_once(source: FileSource, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = np.array(open_store(source, 8))
    monkeypatch.setattr(FileSource, "image", lambda *_: pytest.fail("decoded again"))
    assert (open_store(source, 8) == first).all()
    assert len(stores(cache)) == 1


def test_size_interpolation_and_content_each_make_a_store(
    source: FileSource, tmp_path: Path, cache: Path, draw: Draw
) -> None:
    first = np.array(open_store(source, 8))
    open_store(source, 9)
    open_store(source, 8, interpolation="nearest")
    cropped = open_store(source, 8, crop=1.0)
    assert (cropped == open_store(source, 8, crop=1.0)).all() and (cropped != first).any()
    draw(tmp_path / "images/0.png", 99, size=(9, 14))
    assert (open_store(FileSource(source.root, source.names), 8)[0] != first[0]).any()
    assert len(stores(cache)) == 5


def test_the_same_images_elsewhere_share_the_store(source: FileSource, tmp_path: Path, cache: Path) -> None:
    open_store(source, 8)
    shutil.copytree(tmp_path / "images", tmp_path / "copy")
    open_store(FileSource(tmp_path / "copy", source.names), 8)
    assert len(stores(cache)) == 1


def damaged_stores(path: Path) -> Iterator[bytes | np.ndarray]:
    whole = path.read_bytes()
    yield from (whole[:-1], whole[:40], b"", b"rubbish", whole + b"more")
    yield from (np.zeros((11, 3, 8, 8), np.uint8), np.zeros((12, 3, 8, 8), np.float32), np.array([None], dtype=object))


def test_a_damaged_store_is_built_again(source: FileSource, cache: Path) -> None:
    first = np.array(open_store(source, 8))
    (path,) = stores(cache)
    size = path.stat().st_size
    for damage in list(damaged_stores(path)):
        path.unlink()
        if isinstance(damage, bytes):
            path.write_bytes(damage)
        else:
            np.save(path, damage)
        assert (open_store(source, 8) == first).all()
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
    assert sorted({path.suffix for path in cache.iterdir()}) == [".npy"]


def test_a_build_that_was_killed_is_no_store_and_is_cleared_away(many: Path, cache: Path) -> None:
    with child(many, stop=40) as killed:
        assert line(killed) == "ready"
        assert line(killed, "go\n") == "half"
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert stores(cache) == []
    assert list(cache.glob("*.tmp"))
    source = open_task(str(many)).views["trainval"].source
    names = [source.name(index) for index in range(len(source))]
    expected = by_pillow(many, names, 16, Image.Resampling.BICUBIC)
    assert (open_store(source, 16) == expected).all()
    assert len(stores(cache)) == 1
    assert {path.suffix for path in cache.iterdir()} == {".npy"}


def test_a_broken_image_stops_the_build_and_leaves_nothing(vtab: Path, cache: Path) -> None:
    (vtab / "images/00002.png").write_bytes((vtab / "images/00002.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"images/00002\.png \(.*train800\.txt line 3\): the image cannot be read"):
        open_store(open_task(str(vtab)).views["train"].source, 8)
    assert not list(cache.iterdir())


def test_an_unwritable_cache_says_what_to_do(source: FileSource, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"written to .*file, which failed .* PETLAS_CACHE"):
        open_store(source, 8, tmp_path / "file")


def test_a_disk_that_fills_up_says_what_to_do(source: FileSource, cache: Path) -> None:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, old[1]))
    try:
        with pytest.raises(DataError, match=r"which failed .*File too large.*free space"):
            open_store(source, 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert not list(cache.iterdir())


def test_a_store_that_cannot_fit_is_refused_before_decoding(
    source: FileSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage(os.curdir))(10**9, 10**9 - 10, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(FileSource, "image", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"takes 0\.0 GB and 0\.0 GB are free"):
        open_store(source, 8)


def test_a_wrong_size_or_interpolation_is_refused(source: FileSource) -> None:
    with pytest.raises(DataError, match="1 or more, got 0"):
        open_store(source, 0)
    with pytest.raises(DataError, match=r"unknown interpolation 'cubic'; use one of .*bicubic"):
        open_store(source, 8, interpolation="cubic")
    with pytest.raises(DataError, match=r"at most 1, got 1\.5"):
        open_store(source, 8, crop=1.5)


def test_labels_corrected_by_swapping_files_of_equal_size_and_time_are_seen(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / f"x/{('cat', 'dog')[number % 2]}/{number // 2}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 9, 9)).save(path)
        os.utime(path, (10, 10))
    before = open_task(str(tmp_path / "x"))
    old = np.array(open_store(before.views["trainval"].source, 8))
    assert before.fingerprint and before.test_fingerprint
    for path in (tmp_path / "x/cat").iterdir():
        other = tmp_path / "x/dog" / path.name
        path.rename(tmp_path / "third")
        other.rename(path)
        (tmp_path / "third").rename(other)
    after = open_task(str(tmp_path / "x"))
    assert after.fingerprint != before.fingerprint
    assert after.test_fingerprint != before.test_fingerprint
    assert (open_store(after.views["trainval"].source, 8) != old).any()


def test_content_that_is_written_in_place_with_its_old_time_is_seen(source: FileSource, draw: Draw) -> None:
    first = source.fingerprint()
    path = source.root / source.names[3]
    stat, content = path.stat(), path.read_bytes()
    with path.open("r+b") as file:
        file.seek(len(content) // 2)
        file.write(bytes([content[len(content) // 2] ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert FileSource(source.root, source.names).fingerprint() != first


def test_an_image_that_changes_between_hashing_and_decoding_is_refused(source: FileSource, draw: Draw) -> None:
    source.fingerprint()
    draw(source.root / source.names[3], 99)
    with pytest.raises(DataError, match=r"3\.png: the image was changed while it was in use; start again"):
        open_store(source, 8)


def test_the_range_of_values_makes_a_store_of_its_own(tmp_path: Path, cache: Path) -> None:
    Image.fromarray(np.array([[0, 2000]], dtype=np.uint16)).save(tmp_path / "a.png")
    bright, dark = (
        open_store(FileSource(tmp_path, ("a.png",), (), (0, white)), 2, interpolation="nearest") for white in (2e3, 4e3)
    )
    assert (bright.max(), dark.max(), len(stores(cache))) == (255, 128, 2)


def test_all_broken_images_are_told_at_once(source: FileSource) -> None:
    for number in (2, 5, 7, 8, 9):
        (source.root / f"{number}.png").write_bytes(b"")
    told = r"/2\.png: .*the file is empty.*; 4 more of 12 images are at fault: 5\.png, 7\.png, 8\.png and 1 more"
    with pytest.raises(DataError, match=told):
        open_store(source, 8)


@pytest.mark.parametrize("folder", ["/dev/null/x", "/proc/nowhere"])
def test_a_cache_that_cannot_be_made_is_the_users_fault(
    source: FileSource, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PETLAS_CACHE", folder)
    with pytest.raises(DataError, match=f"must be written to {folder}, which failed .* PETLAS_CACHE"):
        open_store(source, 8)


def test_a_finished_store_is_only_read(source: FileSource, monkeypatch: pytest.MonkeyPatch) -> None:
    first = np.array(open_store(source, 8))
    monkeypatch.setattr("petlas.datasets.stores.mapped.exclusive", lambda _: pytest.fail("locked"))
    monkeypatch.setattr("petlas.datasets.stores.mapped.sweep", lambda _: pytest.fail("swept"))
    assert (open_store(FileSource(source.root, source.names), 8) == first).all()


def test_a_relative_root_and_another_working_folder_give_the_same_store(
    many: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(many.parent)
    relative = open_task("many", root=".").views["trainval"].source
    monkeypatch.chdir("/")
    open_store(relative, 8)
    open_store(open_task(str(many)).views["trainval"].source, 8)
    assert len(stores(cache)) == 1


def test_odd_images_are_all_decoded(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    palette = Image.new("P", (300, 2))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    Image.new("L", (1, 1), 9).save(tmp_path / "tiny.png")
    Image.new("CMYK", (5, 3), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    palette.save(tmp_path / "palette.png", transparency=0)
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (2000, 1), "white").save(tmp_path / "turned.jpg", exif=exif)
    names = ("tiny.png", "cmyk.jpg", "palette.png", "moving.gif", "turned.jpg")
    store = open_store(FileSource(tmp_path, names), 4)
    assert store[0].tolist() == [[[9] * 4] * 4] * 3
    assert store[2].min() == 255
    assert store[3, 0].min() == 255 and store[3, 1].max() == 0
