"""What a reader is, and how its lists of files become a task."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from petlas.datasets.errors import some
from petlas.datasets.images import ValueRange
from petlas.datasets.sources import FileSource
from petlas.datasets.split import Indices, Targets, deal, stratified_split
from petlas.datasets.task import Kind, Task, View, class_counts

SHARE = 0.2  # of the images to learn from, for a split that the data does not say

PUBLISHED_OVERLAP = 0.01
"""Published lists name a few pictures on both sides under two names (5 of 906 in one); see `Task.tolerated_overlap`."""

LEARNED = ("train", "val", "trainval")


@dataclass(frozen=True)
class ReadOptions:
    """What a user may say about data that does not say it.

    Args:
        split_seed: Decides which images are set aside where there is no val or no test.
        value_range: What is black and white in images of more than 8 bits.
        shots: How many images of each class to learn from, for readers of few-shot splits.
        shot_seed: Which of their drawings.
    """

    split_seed: int = 0
    value_range: ValueRange | None = None
    shots: int | None = None
    shot_seed: int = 0


class Reader(ABC):
    """Reads one layout. A task may also come with petlas under a name, without any folder."""

    builtin: ClassVar[tuple[str, ...]] = ()
    """Names of tasks that need no folder; they are read with the name as path."""

    takes_shots: ClassVar[bool] = False
    """Whether the layout says which images to learn from where there are a few shots of each class."""

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether a folder, or a file, is of this layout, sound or not; it may look at names but reads no image."""

    def certain(self, path: Path) -> bool:
        """Whether a folder that is recognised can be nothing else; such a reader goes first."""
        return True

    @abstractmethod
    def read(self, path: Path, options: ReadOptions) -> Task:
        """The task in a folder, its lists and names checked; no image is read.

        Args:
            path: The folder.
            options: What the user says.

        Raises:
            DataError: When the data is at fault.
        """


@dataclass(frozen=True)
class Part:
    """The images of one view, in its order.

    Args:
        names: Their paths, relative to the root.
        targets: (N,) int64 or (N, C) bool.
        places: Where each is listed; empty where no list names them.
    """

    names: tuple[str, ...]
    targets: Targets
    places: tuple[str, ...] = ()

    def subset(self, positions: Indices) -> "Part":
        """The images at these positions."""
        places = tuple(self.places[i] for i in positions) if self.places else ()
        return Part(tuple(self.names[i] for i in positions), self.targets[positions], places)

    def __add__(self, other: "Part") -> "Part":
        targets = np.concatenate([self.targets, other.targets])
        return Part(self.names + other.names, targets, self.places + other.places)


def set_aside(part: Part, seed: int) -> tuple[Part, Part]:
    """A part without, and the share that is held: stratified, and the same for the same seed.

    Args:
        part: What to take from.
        seed: Decides which images.
    """
    if part.targets.ndim == 1:
        kept, held = stratified_split(part.targets.astype(np.int64), round(SHARE * len(part.names)), seed)
    else:
        side = deal(part.targets, (1 - SHARE, SHARE), seed)
        kept, held = np.flatnonzero(side == 0), np.flatnonzero(side == 1)
    return part.subset(kept), part.subset(held)


def file_task(
    root: Path,
    layout: str,
    kind: Kind,
    classes: tuple[str, ...],
    parts: Mapping[str, Part],
    options: ReadOptions,
    *,
    notes: tuple[str, ...] = (),
    was_split: bool = False,
    tolerated_overlap: float = 0.0,
) -> Task:
    """The task of image files: one source of what is learned from, each file once, and one of the test files.

    Args:
        root: The data's folder, which also names the task.
        layout: The reader's name.
        kind: What the targets are.
        classes: Names of the classes, in order.
        parts: The four views' images.
        options: What the user says.
        notes: What the reader left out or found odd.
        was_split: Whether a part was set aside by the split seed.
        tolerated_overlap: As of `Task`.
    """
    learned: dict[str, str] = {}
    for name in ("trainval", "train", "val"):
        part = parts[name]
        learned.update((image, "") for image in part.names if image not in learned)
    for name in LEARNED[::-1]:  # train's and val's own lists are named rather than that of both
        learned.update(zip(parts[name].names, parts[name].places, strict=False))
    places = tuple(learned.values()) if all(learned.values()) else ()
    source = FileSource(root, tuple(learned), places, options.value_range)
    position = {image: index for index, image in enumerate(source.names)}
    views = {
        name: View(source, np.array([position[image] for image in parts[name].names]), parts[name].targets)
        for name in LEARNED
    }
    test = parts["test"]
    views["test"] = View.whole(FileSource(root, test.names, test.places, options.value_range), test.targets)
    seed = options.split_seed if was_split else None
    notes = (*notes, *missing_classes(classes, views))
    return Task(root.name, classes, kind, views, layout, notes, seed, tolerated_overlap)


def missing_classes(classes: tuple[str, ...], views: Mapping[str, View]) -> tuple[str, ...]:
    """A note for each of train, val, train+val and test that has no image of some classes.

    Args:
        classes: Their names, in order.
        views: The four views.
    """
    notes = []
    for view in ("train", "val", "trainval", "test"):
        counts = class_counts(views[view], len(classes))
        missing = [name for name, count in zip(classes, counts, strict=True) if not count]
        if missing:
            where = "train and val together have" if view == "trainval" else f"{view} has"
            notes.append(f"{where} no image of {len(missing)} of {len(classes)} classes: {some(missing, 5)}")
    return tuple(notes)
