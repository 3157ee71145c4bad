"""What is learned from: a task, the views of it, and the source that a view's images are read from."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from petlas.datasets.errors import DataError, shown
from petlas.datasets.split import Indices, Targets, class_members, deal, even_sample

VIEWS = ("train", "val", "trainval", "test")

Kind = Literal["single_label", "multi_label"]


class Source(Protocol):
    """Ordered images that can be read one by one, from any thread."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def name(self, index: int) -> str:
        """What the image is called within its data set."""
        ...

    def place(self, index: int) -> str:
        """How an error names the image: its file, and the line of a list that names it."""
        ...

    def image(self, index: int) -> Image.Image:
        """The image as RGB, upright; `DataError` where it cannot be read."""
        ...

    @property
    def hashes(self) -> tuple[str, ...]:
        """Hash of each image's content, in order."""
        ...

    def fingerprint(self, indices: Indices | None = None) -> str:
        """Hash of the content of the images (all, or those of `indices`) in their order, and of how they are read."""
        ...


@dataclass(frozen=True, eq=False)
class View:
    """A part of a task: indices into a source, and targets.

    Args:
        source: Where the images are; several views share one.
        indices: (N,) which images of the source, in the view's order.
        targets: (N,) int64 class of each image, or (N, C) bool whether image n has class c.
    """

    source: Source
    indices: Indices
    targets: Targets

    def __post_init__(self) -> None:
        indices = np.array(self.indices, dtype=np.int64)
        dtype: type[Any] = np.bool_ if np.ndim(self.targets) == 2 else np.int64
        targets = np.array(self.targets, dtype=dtype)
        if indices.ndim != 1 or targets.ndim not in (1, 2) or len(targets) != len(indices):
            raise DataError(
                f"a view needs one target for each image, got {targets.shape} targets for {indices.shape} images; "
                "pass one class, or one row of classes, per image"
            )
        if len(indices) and not (indices.min() >= 0 and indices.max() < len(self.source)):
            raise DataError(
                f"a view's indices must be 0..{len(self.source) - 1}, got {indices.min()}..{indices.max()}; "
                "count within its source"
            )
        for field, values in (("indices", indices), ("targets", targets)):
            values.setflags(write=False)
            object.__setattr__(self, field, values)

    @classmethod
    def whole(cls, source: Source, targets: Targets) -> "View":
        """All images of a source in its order.

        Args:
            source: Where the images are.
            targets: (N,) int64 or (N, C) bool.
        """
        return cls(source, np.arange(len(source)), targets)

    def __len__(self) -> int:
        return len(self.indices)

    def subset(self, positions: Indices | Sequence[int]) -> "View":
        """The view of the images at these positions of this one, in their order."""
        chosen = np.asarray(positions, dtype=np.int64)
        return View(self.source, self.indices[chosen], self.targets[chosen])

    def sample(self, count: int, seed: int) -> "View":
        """Some images, shuffled, with every class as even as it can be: for all that looks at a few batches.

        Args:
            count: How many; the whole view where it holds no more.
            seed: Decides which, and their order.

        Raises:
            DataError: When `count` is below 1.
        """
        if count < 1:
            raise DataError(f"a sample must be of 1 image or more, got {count}")
        return self.subset(even_sample(self.targets, count, seed))

    def fingerprint(self) -> str:
        """Hash of the images' contents and their targets, in order."""
        digest = hashlib.sha256(self.source.fingerprint(self.indices).encode())
        if self.targets.ndim == 1:
            digest.update(self.targets.astype("<i8").tobytes())
        else:
            digest.update(f"{self.targets.shape}".encode() + np.packbits(self.targets).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Task:
    """A data set with its targets and the views `train`, `val`, `trainval` (of one source) and `test` (of another).

    Args:
        name: What it is called.
        classes: Their names, in the order of the targets.
        kind: What the targets are.
        views: The four views.
        layout: The reader that found it.
        notes: What was left out or is odd, one line each, with counts.
        split_seed: Of the val or test that were set aside; None where the data says its own.
        tolerated_overlap: The share of test images that may recur among those learned from: above 0 for published
            lists only, which cannot be mended without losing comparability.
    """

    name: str
    classes: tuple[str, ...]
    kind: Kind
    views: Mapping[str, View]
    layout: str
    notes: tuple[str, ...] = ()
    split_seed: int | None = None
    tolerated_overlap: float = 0.0

    def __post_init__(self) -> None:
        if set(self.views) != set(VIEWS):
            raise self._fault(
                f"the views must be {', '.join(VIEWS)}, got {', '.join(self.views) or 'none'}; give exactly these four"
            )
        fewest = 2 if self.kind == "single_label" else 1
        if self.num_classes < fewest:
            raise self._fault(
                f"there must be {'two classes' if fewest == 2 else 'one class'} or more, got "
                f"{', '.join(shown(name) for name in self.classes) or 'none'}; add the missing classes"
            )
        for name, view in self.views.items():
            self._check_view(name, view)
        if any(self.views[name].source is not self.views["train"].source for name in ("val", "trainval")):
            raise self._fault("train, val and trainval must share one source; make them views of it")
        if self.views["test"].source is self.views["train"].source:
            raise self._fault("test must have a source of its own; give its images apart")
        ordered = {name: self.views[name] for name in VIEWS}
        object.__setattr__(self, "views", MappingProxyType(ordered))

    def _fault(self, text: str) -> DataError:
        return DataError(f"task {shown(self.name)}: {text}")

    def _check_view(self, name: str, view: View) -> None:
        if not len(view):
            raise self._fault(f"the view {name} is empty; give it at least one image")
        shape = (len(view),) if self.kind == "single_label" else (len(view), self.num_classes)
        if view.targets.shape != shape:
            raise self._fault(f"targets of {self.kind} must be {shape} in view {name}, got {view.targets.shape}")
        if view.targets.ndim == 1:
            wrong = (view.targets < 0) | (view.targets >= self.num_classes)
            if wrong.any():
                raise self._fault(
                    f"in view {name} label {view.targets[wrong][0]} is out of range 0..{self.num_classes - 1}; "
                    "correct the label or name every class"
                )

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy cannot be pickled, and tasks travel to worker processes.
        fields = (self.name, self.classes, self.kind, dict(self.views), self.layout, self.notes, self.split_seed)
        return Task, (*fields, self.tolerated_overlap)

    @property
    def splits(self) -> Mapping[str, "View"]:
        """The four views, by the word that other libraries have for them."""
        return self.views

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the number of classes and the contents and targets of train and val; test is left alone."""
        parts = (self.views[name].fingerprint() for name in ("train", "val"))
        return hashlib.sha256("".join((*parts, str(self.num_classes))).encode()).hexdigest()

    @cached_property
    def test_fingerprint(self) -> str:
        """Hash of the contents and targets of test."""
        return self.views["test"].fingerprint()

    @property
    def most_folds(self) -> int:
        """How many folds of trainval can each hold an image of every class that it has; 2 at the least."""
        counts = class_counts(self.views["trainval"], self.num_classes)
        return max(2, int(counts[counts > 0].min(initial=len(self.views["trainval"]))))

    def folds(self, k: int, seed: int, repeat: int = 0) -> tuple[tuple[View, View], ...]:
        """The k pairs (to learn from, held out) over trainval: every image is held out once, every class evenly.

        Args:
            k: Number of folds.
            seed: Shuffles which image is in which fold.
            repeat: Each number above 0 deals the images anew.

        Raises:
            DataError: When `k` is below 2 or above the number of images.
        """
        view = self.views["trainval"]
        if not 2 <= k <= len(view):
            raise self._fault(f"folds must be 2..{len(view)}, the number of images to learn from, got {k}")
        own = int(np.random.SeedSequence([seed, repeat]).generate_state(1)[0]) if repeat else seed
        fold = deal(view.targets, [1 / k] * k, own)
        return tuple(
            (view.subset(np.flatnonzero(fold != held)), view.subset(np.flatnonzero(fold == held))) for held in range(k)
        )


def class_counts(view: View, classes: int) -> npt.NDArray[np.int64]:
    """(C,) how many images of the view have each class.

    Args:
        view: Whose images.
        classes: C, of which the view's labels may not reach the last.
    """
    counts = class_members(view.targets).sum(axis=0)
    return np.pad(counts, (0, classes - len(counts)))
