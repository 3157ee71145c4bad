"""What is learned from: a task, its four splits, and the source a split reads its images from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

SPLITS = ("train", "val", "trainval", "test")

Labels = npt.NDArray[np.int64]


class DataError(ValueError):
    """The data is at fault; the message names the rule, the value, the place and what to do."""


class Source(Protocol):
    """Ordered images that can be read one by one, from any thread."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def image(self, index: int) -> Image.Image:
        """The image as RGB, upright; `DataError` where it cannot be read."""
        ...

    def fingerprint(self, cache_dir: Path | None = None) -> str:
        """Hash of the images' contents in their order; `cache_dir` may remember the hashes of unchanged files."""
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels, in one order."""

    source: Source
    labels: Labels

    def __post_init__(self) -> None:
        labels = np.array(self.labels, dtype=np.int64)
        if labels.shape != (len(self.source),):
            raise DataError(
                f"a split needs one label for each image, got {labels.shape} labels for {len(self.source)} images; "
                "pass one whole number per image"
            )
        labels.setflags(write=False)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self, cache_dir: Path | None = None) -> str:
        """Hash of the images' contents and their labels."""
        digest = hashlib.sha256(self.source.fingerprint(cache_dir).encode())
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Task:
    """A classification data set with the splits `train`, `val`, `trainval` and `test`; its metric is accuracy."""

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]

    def __post_init__(self) -> None:
        if set(self.splits) != set(SPLITS):
            raise DataError(
                f"task {self.name}: the splits must be {', '.join(SPLITS)}, got {', '.join(self.splits) or 'none'}; "
                "give exactly these four"
            )
        if self.num_classes < 2:
            raise DataError(
                f"task {self.name}: there must be two classes or more, got {', '.join(self.classes) or 'none'}; "
                "add the missing classes"
            )
        for name, split in self.splits.items():
            self._check_split(name, split)
        ordered = {name: self.splits[name] for name in SPLITS}
        object.__setattr__(self, "splits", MappingProxyType(ordered))

    def _check_split(self, name: str, split: Split) -> None:
        if not len(split):
            raise DataError(f"task {self.name}: the split {name} is empty; give it at least one image")
        wrong = (split.labels < 0) | (split.labels >= self.num_classes)
        if wrong.any():
            raise DataError(
                f"task {self.name}: in split {name} label {split.labels[wrong][0]} is out of range "
                f"0..{self.num_classes - 1}; correct the label or name every class"
            )

    def __reduce__(self) -> tuple[type["Task"], tuple[str, tuple[str, ...], dict[str, Split]]]:
        # A mapping proxy cannot be pickled, and tasks travel to worker processes.
        return Task, (self.name, self.classes, dict(self.splits))

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the contents and labels of train and val; the test split is left alone until the end."""
        parts = (self.splits[name].fingerprint() for name in ("train", "val"))
        return hashlib.sha256("".join(parts).encode()).hexdigest()
