"""The cache folder on disk: where it is, and how a file in it is written whole or not at all."""

import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows has none; builds then race, which costs time but no correctness
    fcntl = None  # type: ignore[assignment]

_STALE_SECONDS = 24 * 3600


def cache_folder(folder: str | Path | None = None) -> Path:
    """`folder`, else the environment's PETLAS_CACHE, else ~/.cache/petlas; it may not exist yet."""
    return Path(folder or os.environ.get("PETLAS_CACHE") or "~/.cache/petlas").expanduser().absolute()


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the name `path` when the block ends well, and disappears otherwise."""
    name = f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.{socket.gethostname()}.tmp"
    temporary = path.with_name(name)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the final name on an empty file
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


def sweep(folder: Path) -> None:
    """Remove the temporary files of builds that were killed."""
    for path in folder.glob("*.tmp"):
        with suppress(OSError, ValueError):
            _key, _suffix, pid, _token, host = path.name.removesuffix(".tmp").split(".", 4)
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
    lock = path.with_name(path.name + ".lock")
    with lock.open("ab") as file:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Whoever waits on the removed file still gets its turn; a newcomer may build a second time at worst.
            with suppress(OSError):
                lock.unlink()
