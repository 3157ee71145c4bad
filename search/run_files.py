"""The files of a run folder as work reads and writes them: on the disk, or carried to a worker and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from petlas.files import write_bytes


class Files(ABC):
    """Files by their names relative to a run folder, such as `checkpoints/KEY.safetensors`."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is no file that can be read."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all.

        Args:
            name: The file.
            data: Its content.

        Raises:
            OSError: When it cannot be written.
        """

    def file(self, name: str) -> File:
        """One of the files, there or not."""
        return File(self, name)


@dataclass(frozen=True)
class File:
    """One file, there or not.

    Args:
        files: Among which it is.
        name: Its name.
    """

    files: Files
    name: str

    def read(self) -> bytes | None:
        """Its content; None where it cannot be read."""
        return self.files.read(self.name)

    def write(self, data: bytes) -> None:
        """Write it whole or not at all."""
        self.files.write(self.name, data)


class Folder(Files):
    """Files on the disk.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is no file that can be read."""
        try:
            return (self._path / name).read_bytes()
        except OSError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all."""
        write_bytes(self._path / name, data)


class Carried(Files):
    """Files without a folder: what was brought to a worker, and what it is to send back.

    Args:
        brought: What the work may read.
    """

    def __init__(self, brought: Mapping[str, bytes]) -> None:
        self._brought = [brought]
        self._written: dict[str, bytes] = {}
        self._unsent: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        """What was written last, or brought."""
        if name in self._written:
            return self._written[name]
        return next((files[name] for files in reversed(self._brought) if name in files), None)

    def bring(self, files: Mapping[str, bytes]) -> None:
        """Bring further files.

        Args:
            files: What the work may read as well.
        """
        self._brought.append(files)

    def write(self, name: str, data: bytes) -> None:
        """Keep it to be sent back."""
        self._written[name] = self._unsent[name] = data

    def unsent(self) -> dict[str, bytes]:
        """What was written since this was last asked."""
        unsent, self._unsent = self._unsent, {}
        return unsent
