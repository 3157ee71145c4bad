"""The cache folder on disk: where it is, how one process at a time builds in it, and what killed ones left there."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from petlas.datasets.errors import DataError

_STALE_SECONDS = 24 * 3600


def cache_folder(folder: str | Path | None = None) -> Path:
    """`folder`, else the environment's PETLAS_CACHE, else ~/.cache/petlas; it may not exist yet.

    Raises:
        DataError: When it is in the home of somebody who has none.
    """
    chosen = Path(folder or os.environ.get("PETLAS_CACHE") or "~/.cache/petlas")
    try:
        return chosen.expanduser().absolute()
    except RuntimeError as error:
        raise DataError(
            f"the image store must have a place, and {chosen} is none ({error}); point PETLAS_CACHE to a folder that "
            "can be written"
        ) from error


def sweep(folder: Path) -> None:
    """Remove the temporary files of builds that were killed (`.NAME.SUFFIX.PID.TOKEN.HOST.tmp`)."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError, ValueError):
            _dot, _key, _suffix, pid, _token, host = path.name.removesuffix(".tmp").split(".", 5)
            if host == socket.gethostname() and os.name == "posix":
                stale = not _alive(int(pid))
            else:
                stale = time.time() - path.stat().st_mtime > _STALE_SECONDS
            if stale:
                path.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it lives, but belongs to someone else
    return True


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """One process at a time in the block, so that a store is built once; where locks fail, all go ahead."""
    lock = FileLock(path.with_name(path.name + ".lock"))
    with suppress(OSError, NotImplementedError):  # some network drives have no locks: a race costs time, nothing else
        lock.acquire()
    try:
        yield
    finally:
        # Whoever waits on the removed file still gets its turn; a newcomer may build a second time at worst.
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()
