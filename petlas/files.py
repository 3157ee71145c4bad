"""Writing files whole or not at all: a crash, a full disk or a power cut never leaves half a file under its name."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the name `path` when the block ends well, and disappears otherwise.

    The temporary name beside it ends in `.PID.TOKEN.HOST.tmp`, so that what a killed process left can be told.

    Args:
        path: The final name; its folder is made.

    Raises:
        OSError: When the folder or the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the final name on an empty file
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # of a full disk nothing says which
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    """Write plain data as indented JSON, whole or not at all."""
    write_bytes(path, json_bytes(data))


def json_bytes(data: Any) -> bytes:
    """Plain data as indented JSON, as it stands in files."""
    return (json.dumps(data, indent=2) + "\n").encode()


@contextmanager
def making(path: Path, folder: bool = True) -> Iterator[Path]:
    """A place to write that takes the name `path` when the block ends well, and disappears otherwise.

    For what others write by its path. The temporary name beside it is as `replacing` makes it.

    Args:
        path: The final name, where nothing is.
        folder: Whether an empty folder is made; else an empty file, which is to be overwritten.

    Raises:
        OSError: When it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        if folder:
            temporary.mkdir()
        else:
            temporary.touch()  # whether that can be done is known before what is to be written is made
        yield temporary
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A name beside a path that tells who writes there."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.{socket.gethostname()}.tmp")
