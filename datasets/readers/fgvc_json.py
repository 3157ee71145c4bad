"""Reads VPT's splits of fine-grained data sets: `train.json`, `val.json`, `test.json` beside the data set's images."""

from pathlib import Path

from petlas.datasets.errors import DataError, shown
from petlas.datasets.lists import ImageList
from petlas.datasets.readers.base import Reader, ReadOptions
from petlas.datasets.readers.files import Object, read_json
from petlas.datasets.readers.listed import PARTS, below, listed_task
from petlas.datasets.task import Task

_FOLDERS = ("images", "Images", "")  # CUB and NABirds, Dogs, Flowers and Cars


class FgvcJson(Reader):
    """Objects of `IMAGE: CLASS` (Jia et al., 2022). VPT numbers the classes of each file apart; here all have one."""

    def recognises(self, path: Path) -> bool:
        """Whether the folder holds the lists of train and test."""
        return (path / "train.json").is_file() and (path / "test.json").is_file()

    def read(self, path: Path, options: ReadOptions) -> Task:
        """The task, its classes those of all files together."""
        lists = {part: _read(path / f"{part}.json") for part in PARTS if (path / f"{part}.json").is_file()}
        return listed_task(path, "fgvc_json", {p: below(path, each, _FOLDERS) for p, each in lists.items()}, options)


def _read(file: Path) -> ImageList:
    pairs = read_json(file)
    if not isinstance(pairs, Object) or not pairs:
        raise DataError(f"{shown(file)}: it must be an object of `IMAGE: CLASS` with an image or more; fetch it again")
    entries = ImageList(
        file,
        tuple(name for name, _ in pairs),
        tuple(str(label) for _, label in pairs),
        tuple(f"entry {number}" for number in range(1, len(pairs) + 1)),
    )
    for index, (_, label) in enumerate(pairs):
        if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
            raise entries.fault(index, f"a class must be a number or a name, got {label!r}; correct it")
    return entries
