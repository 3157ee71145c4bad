"""Content hashes of files, remembered for as long as a file's size and modification time stay."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from petlas.datasets.cache import cache_folder, replacing
from petlas.datasets.progress import track
from petlas.datasets.task import DataError

Entry = tuple[int, int, str]  # size, mtime_ns, sha256

_RECENT_NS = 2 * 10**9  # coarser file clocks could hide a second change within this time


def content_hashes(root: Path, names: Sequence[str], cache_dir: Path | None = None) -> list[str]:
    """The sha256 of each file `root/name`, in order; unchanged files are not read again."""
    memo_path = _memo_path(root, cache_dir)
    known = _load(memo_path)
    now = time.time_ns()

    def entry(name: str) -> Entry:
        try:
            stat = os.stat(root / name)
            old = known.get(name)
            if old and tuple(old[:2]) == (stat.st_size, stat.st_mtime_ns):
                return old
            with open(root / name, "rb") as file:
                return stat.st_size, stat.st_mtime_ns, hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{root / name}: the image cannot be read ({error.strerror}); restore the file") from error

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        entries = list(track(pool.map(entry, names), len(names), f"hashing {root.name}"))
    fresh = {
        name: new
        for name, new in zip(names, entries, strict=True)
        if known.get(name) is not new and new[1] < now - _RECENT_NS
    }
    if fresh:
        _save(memo_path, fresh)
    return [digest for _, _, digest in entries]


def _memo_path(root: Path, cache_dir: Path | None) -> Path:
    key = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:16]
    return cache_folder(cache_dir) / f"hashes-{key}.json"


def _load(path: Path) -> dict[str, Entry]:
    try:
        loaded = json.loads(path.read_bytes())
        return {str(name): (int(size), int(mtime), str(digest)) for name, (size, mtime, digest) in loaded.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # missing or damaged: it is only a memory


def _save(path: Path, fresh: dict[str, Entry]) -> None:
    # Read again, so that what another process has learned in the meantime is kept; an unwritable cache costs only time.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(json.dumps(_load(path) | fresh).encode())
