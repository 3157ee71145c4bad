"""What lies in a folder of images: every file is an image of it, or is counted among what was left out and why."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from petlas.datasets.errors import some
from petlas.datasets.images import SUFFIXES

# Made by archives of macOS, notebooks, network drives, file systems and Python; compared in lower case.
MADE_BY_TOOLS = frozenset(
    {"__macosx", "@eadir", "#recycle", "@recycle", "lost+found", "$recycle.bin", "system volume information"}
    | {"__pycache__", "thumbs.db", "desktop.ini"}
)

_TOOLS = "made by tools"
_HIDDEN = "hidden"
_LOOSE = "outside the class folders"
_OTHER = "without an image's suffix"
_LOOP = "linked to a folder above"
_BROKEN = "linked to nothing"
_SPECIAL = "neither file nor folder"


class Tree:
    """A look at one data folder that follows links, remembers what it left out, and never guesses."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._left: dict[str, set[str]] = defaultdict(set)

    def folders(self, folder: Path) -> list[Path]:
        """The folder's subfolders in order, linked ones too; hidden ones and those that tools make are left out."""
        if not folder.is_dir():
            return []
        return sorted(folder / entry.name for entry in self._entries(folder) if _is_dir(entry))

    def images(self, folder: Path) -> Iterator[Path]:
        """The images at any depth, in no order."""
        above = (path for path in (folder, *folder.parents) if path.is_relative_to(self.root))
        yield from self._images(folder, frozenset(map(_identity, above)))

    def has_image(self, folder: Path) -> bool:
        """Whether an image lies in the folder at any depth."""
        return any(True for _ in self.images(folder))

    def has_direct_image(self, folder: Path) -> bool:
        """Whether an image lies right in the folder."""
        return any(is_image(entry.name) and not _is_dir(entry) for entry in self._entries(folder))

    def leave_loose(self, folder: Path) -> None:
        """Count the files right in the folder as left out: only those in class folders have a class."""
        for entry in self._entries(folder):
            if not _is_dir(entry):
                self._leave(_LOOSE if is_image(entry.name) else _reason(folder / entry.name), folder / entry.name)

    def notes(self) -> tuple[str, ...]:
        """One line with the counts, the reasons and some names; none where everything is used."""
        parts = [f"{len(names)} {reason} ({some(sorted(names))})" for reason, names in sorted(self._left.items())]
        return (f"left out: {'; '.join(parts)}",) if parts else ()

    def _images(self, folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
        for entry in self._entries(folder):
            path = folder / entry.name
            if _is_dir(entry):
                if (identity := _identity(path)) in above:
                    self._leave(_LOOP, path)
                else:
                    yield from self._images(path, above | {identity})
            elif is_image(entry.name) and (entry.is_symlink() or entry.is_file()):  # a broken link is told when read
                yield path
            else:
                self._leave(_reason(path), path)

    def _entries(self, folder: Path) -> Iterator["os.DirEntry[str]"]:
        """What is neither hidden nor made by tools."""
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.lower() in MADE_BY_TOOLS:
                    self._leave(_TOOLS, folder / entry.name)
                elif entry.name.startswith("."):
                    self._leave(_HIDDEN, folder / entry.name)
                else:
                    yield entry

    def _leave(self, reason: str, path: Path) -> None:
        self._left[reason].add(path.relative_to(self.root).as_posix())


def is_image(name: str) -> bool:
    """By its name; hidden files are none, among them the `._x.jpg` that macOS leaves."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def _reason(path: Path) -> str:
    """Why what is no folder is no image."""
    if path.is_symlink() and not os.path.exists(path):
        return _BROKEN
    return _OTHER if path.is_file() else _SPECIAL


def _is_dir(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino
