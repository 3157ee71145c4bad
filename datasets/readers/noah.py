"""Reads NOAH's few-shot lists: `annotations/train_meta.list.num_shot_1.seed_0` and so on, and those of val and test."""

import re
from pathlib import Path

from petlas.datasets.errors import DataError, shown
from petlas.datasets.lists import ImageList, read_list
from petlas.datasets.readers.base import Reader, ReadOptions
from petlas.datasets.readers.listed import below, listed_task
from petlas.datasets.task import Task

ANNOTATIONS = "annotations"
_TRAIN = re.compile(r"train_meta\.list\.num_shot_(\d+)\.seed_(\d+)")
_FOLDERS = ("images", "", "train", "val")  # cars lie in the root, those of ImageNet in train and val


class NoahLists(Reader):
    """Lines `PATH LABEL` (Zhang, Zhou & Liu, "Neural Prompt Search", 2022). Which list: `shots` and `shot_seed`."""

    takes_shots = True

    def recognises(self, path: Path) -> bool:
        """Whether the folder holds a list of some number of shots."""
        return bool(_lists(path))

    def read(self, path: Path, options: ReadOptions) -> Task:
        """The task; by default with the most shots there are. No image of val is ever learned from."""
        found = _lists(path)
        most = max(shots for shots, _ in found)
        wanted = (options.shots or most, options.shot_seed)
        if wanted not in found:
            told = ", ".join(f"{shots} ({seed})" for shots, seed in sorted(found))
            raise DataError(
                f"{shown(path / ANNOTATIONS)}: there is no list of {wanted[0]} shots and seed {wanted[1]}; there are, "
                f"shots (seed): {told}; set task.shots and task.shot_seed"
            )
        files = {"train": found[wanted], "val": path / ANNOTATIONS / "val_meta.list"}
        files["test"] = path / ANNOTATIONS / "test_meta.list"
        lists = {part: below(path, _read(file), _FOLDERS) for part, file in files.items()}
        some = () if options.shots else (f"train has {most} shots of seed {wanted[1]}; others: task.shots=N",)
        return listed_task(path, "noah", lists, options, notes=some, few_shot=True)


def _lists(path: Path) -> dict[tuple[int, int], Path]:
    """The lists to learn from, by shots and seed."""
    folder = path / ANNOTATIONS
    files = folder.iterdir() if folder.is_dir() else ()
    matched = ((_TRAIN.fullmatch(file.name), file) for file in files)
    return {(int(match[1]), int(match[2])): file for match, file in matched if match}


def _read(file: Path) -> ImageList:
    if not file.is_file():
        raise DataError(f"{shown(file)}: the list is missing; NOAH's few-shot lists come with those of val and test")
    entries = read_list(file, "PATH LABEL")
    for index, label in enumerate(entries.labels):
        if not (label.isascii() and label.isdigit()):
            raise entries.fault(index, f"label {label!r} is not a whole number; correct the line")
    return entries
