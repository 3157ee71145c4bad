"""Reads CoOp's splits: `split_zhou_NAME.json` beside the data set's images, whole or some shots of each class."""

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

from petlas.datasets.errors import DataError, shown
from petlas.datasets.lists import ImageList
from petlas.datasets.readers.base import Reader, ReadOptions
from petlas.datasets.readers.files import Object, read_json
from petlas.datasets.readers.listed import PARTS, below, listed_task
from petlas.datasets.task import Task
from petlas.datasets.tree import Tree

_VAL_SHOTS = 4


class CoopSplit(Reader):
    """`{train, val, test: [[path, label, class name], ...]}` (Zhou et al., 2022).

    With `shots`, each class has that many images to learn from and at most four in val, drawn as CoOp's code draws
    them: by Python's `random` with `shot_seed`, class after class in the order of the list; no image of val is learned
    from then, in retraining neither. Its kept drawings
    (`split_fewshot/*.pkl`) are not opened: loading a pickle runs whatever it holds.
    """

    takes_shots = True

    def recognises(self, path: Path) -> bool:
        """Whether the folder holds such a file."""
        return bool(_files(path))

    def read(self, path: Path, options: ReadOptions) -> Task:
        """The task; the images lie in the folder or in one of its subfolders."""
        files = _files(path)
        if len(files) > 1:
            told = " and ".join(shown(file.name) for file in files)
            raise DataError(f"{shown(path)}: there may be one split, got {told}; leave one of them")
        held = dict(_object(files[0]))
        names: dict[str, str] = {}
        lists = {part: _list(files[0], part, held.get(part), names) for part in PARTS}
        if options.shots:
            drawn = random.Random(options.shot_seed)
            lists["train"] = _few(lists["train"], options.shots, drawn)
            lists["val"] = _few(lists["val"], min(options.shots, _VAL_SHOTS), drawn)
        folders = ["", *(folder.name for folder in Tree(path).folders(path))]
        lists = {part: below(path, entries, folders) for part, entries in lists.items()}
        return listed_task(path, "coop", lists, options, names=names, few_shot=options.shots is not None)


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("split_zhou_*.json")) if path.is_dir() else []


def _object(file: Path) -> Object:
    held = read_json(file)
    if not isinstance(held, Object):
        raise DataError(f"{shown(file)}: it must be an object of train, val and test; fetch it again")
    return held


def _list(file: Path, part: str, rows: Any, names: dict[str, str]) -> ImageList:
    """The entries of a part; the classes' names are added to `names`."""
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{shown(file)}: {part} must be a list with an image or more; fetch the file again")
    where = tuple(f"{part} entry {number}" for number in range(1, len(rows) + 1))
    for row, place in zip(rows, where, strict=True):
        if not (isinstance(row, list) and [type(value) for value in row] == [str, int, str]):
            raise DataError(f"{shown(file)} {place}: expected `[PATH, LABEL, CLASS NAME]`, got {row!r}; correct it")
        name = row[2].replace("_", " ")
        if names.setdefault(str(row[1]), name) != name:
            raise DataError(
                f"{shown(file)} {place}: label {row[1]} is {shown(name)!r} here and {shown(names[str(row[1])])!r} "
                "before; a label has one name: correct it"
            )
    return ImageList(file, tuple(row[0] for row in rows), tuple(str(row[1]) for row in rows), where)


def _few(entries: ImageList, shots: int, drawn: random.Random) -> ImageList:
    members: dict[str, list[int]] = defaultdict(list)
    for index, label in enumerate(entries.labels):
        members[label].append(index)
    chosen: list[int] = []
    for indices in members.values():
        chosen += drawn.sample(indices, shots) if len(indices) >= shots else indices
    return entries.subset(chosen)
