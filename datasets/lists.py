"""Lists of images and labels, most often text: one image a line, its label or labels behind it."""

import os
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from petlas.datasets.errors import DataError, shown


@dataclass(frozen=True)
class ImageList:
    """One list file; entry i stands in line i + 1 unless `where` says otherwise.

    Args:
        file: The list.
        names: The images' paths, relative to the data's folder.
        labels: What stands behind each, as it is written; empty where nothing does.
        where: Where each stands in the file ("entry 3"), if not in lines counted from 1.
    """

    file: Path
    names: tuple[str, ...]
    labels: tuple[str, ...]
    where: tuple[str, ...] = ()

    def at(self, index: int) -> str:
        """Where an entry stands in the file."""
        return self.where[index] if self.where else f"line {index + 1}"

    def places(self) -> tuple[str, ...]:
        """How an error names each entry next to its image."""
        return tuple(f"{shown(self.file.name)} {self.at(index)}" for index in range(len(self.names)))

    def subset(self, indices: Sequence[int]) -> "ImageList":
        """The entries at these indices, each still told by where it stands."""
        names, labels = (tuple(values[i] for i in indices) for values in (self.names, self.labels))
        return ImageList(self.file, names, labels, tuple(self.at(i) for i in indices))

    def fault(self, index: int, text: str) -> DataError:
        """The error that an entry is at fault.

        Args:
            index: Of the entry.
            text: The rule, the value and what to do.
        """
        return DataError(f"{shown(self.file)} {self.at(index)}: {text}")


def read_lines(file: Path, what: str) -> list[str]:
    """The lines of a UTF-8 text; bytes that are none, as names of files may hold, are kept as Python keeps them.

    Args:
        file: The text.
        what: How an error calls it.

    Raises:
        DataError: When it cannot be read.
    """
    try:
        data = file.read_bytes()
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ValueError("it is UTF-16")
    except (OSError, ValueError) as error:
        raise DataError(f"{shown(file)}: {what} cannot be read ({error}); write it again as UTF-8 text") from error
    text = data.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
    return text.rstrip().split("\n")


def read_list(file: Path, form: str = "IMAGE LABEL", unlabelled: bool = False) -> ImageList:
    """The entries of a list: what stands before a line's last gap is the image, for its path may hold blanks.

    A line with a tab is parted at its last tab instead, so that labels may hold blanks as well.

    Args:
        file: The list.
        form: How an error describes a line.
        unlabelled: Whether a line may hold an image alone.

    Raises:
        DataError: When the list cannot be read or a line is at fault.
    """
    lines = read_lines(file, "the list")
    if lines == [""]:
        raise DataError(f"{shown(file)}: the list is empty; a split needs at least one line `{form}`")
    names, labels = [], []
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        parts = [part.strip() for part in stripped.rsplit("\t" if "\t" in stripped else None, 1)]
        if len(parts) == 1 and parts[0] and unlabelled:
            parts.append("")
        if len(parts) != 2:
            raise DataError(f"{shown(file)} line {number}: expected `{form}`, got {stripped!r}; correct the line")
        names.append(posixpath.normpath(parts[0]))
        labels.append(parts[1])
    return ImageList(file, tuple(names), tuple(labels))


def read_classes(file: Path) -> tuple[str, ...]:
    """The class names of a classes.txt, one a line, in the order of the labels.

    Raises:
        DataError: When it cannot be read, or a name is empty or a repeat.
    """
    names = tuple(line.strip() for line in read_lines(file, "the class names"))
    for number, name in enumerate(names, 1):
        if not name or name in names[: number - 1]:
            raise DataError(f"{shown(file)} line {number}: {name!r} is empty or a repeat; give one new name per line")
    return names


def check_duplicates(entries: ImageList) -> None:
    """An image stands in a list once.

    Raises:
        DataError: When it stands there again.
    """
    seen: dict[str, int] = {}
    for index, name in enumerate(entries.names):
        if (first := seen.setdefault(name, index)) != index:
            raise entries.fault(index, f"{shown(name)} is already in {entries.at(first)}; remove one of the two")


def check_disjoint(first: ImageList, second: ImageList) -> None:
    """No image stands in both lists.

    Args:
        first: A list.
        second: The list that is blamed.

    Raises:
        DataError: When one does.
    """
    lines = {name: index for index, name in enumerate(first.names)}
    for index, name in enumerate(second.names):
        if name in lines:
            raise second.fault(
                index,
                f"{shown(name)} is also in {first.file.name} {first.at(lines[name])}; an image may not be learned from "
                "and judged on: remove one of the two",
            )


def check_existence(folder: Path, entries: ImageList) -> None:
    """Every image of the list is a file below the folder.

    Args:
        folder: What the names are relative to.
        entries: The list.

    Raises:
        DataError: When one is missing.
    """
    present = _listing(folder, {posixpath.dirname(name) for name in entries.names})

    def exists(name: str) -> bool:
        parent, base = posixpath.split(name)
        # The second look helps where upper and lower case are the same to the file system.
        return base in present.get(parent, ()) or (folder / name).is_file()

    for index, name in enumerate(entries.names):
        if exists(name):
            continue
        shorter = name.rsplit(None, 1)
        if len(shorter) == 2 and exists(shorter[0]):
            raise entries.fault(
                index,
                f"there is an extra column: {shown(shorter[0])} is followed by {shown(shorter[1])!r} and "
                f"{shown(entries.labels[index])!r}; give one label per line",
            )
        raise entries.fault(
            index, f"image {shown(name)} does not exist in {shown(folder)}; restore it or remove the line"
        )


def _listing(folder: Path, parents: Iterable[str]) -> dict[str, set[str]]:
    """The names in each subfolder: far cheaper than asking for every image, above all on a network drive."""
    present: dict[str, set[str]] = defaultdict(set)
    for parent in parents:
        if (folder / parent).is_dir():
            present[parent] = set(os.listdir(folder / parent))
    return present
