"""Reads torchvision's own data sets where they lie on a disk: their folders say which they are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from petlas.datasets.errors import DataError, shown
from petlas.datasets.lists import ImageList
from petlas.datasets.names import TORCHVISION
from petlas.datasets.readers.base import PUBLISHED_OVERLAP, Part, Reader, ReadOptions, missing_classes, set_aside
from petlas.datasets.readers.files import read_columns
from petlas.datasets.readers.listed import listed_task, readable
from petlas.datasets.sources import ArraySource
from petlas.datasets.task import Task, View
from petlas.datasets.tree import Tree

Arguments = Mapping[str, Any]

_TRAIN_FLAG: dict[str, Arguments] = {"train": {"train": True}, "test": {"train": False}}
_TWO: dict[str, Arguments] = {part: {"split": part} for part in ("train", "test")}
_THREE: dict[str, Arguments] = {part: {"split": part} for part in ("train", "val", "test")}
_WHOLE: dict[str, Arguments] = {"train": {}}


@dataclass(frozen=True)
class Known:
    """One of torchvision's data sets; what its folder is called stands in `petlas.datasets.names`.

    Args:
        marker: What only that folder has.
        splits: The arguments that give each part; a part without is set aside.
        in_memory: Whether it is arrays, else files.
        is_root: Whether its files lie right in the root that torchvision is given.
    """

    marker: str
    splits: Mapping[str, Arguments] = field(default_factory=lambda: _WHOLE)
    in_memory: bool = False
    is_root: bool = False


KNOWN = {
    "CIFAR10": Known("batches.meta", _TRAIN_FLAG, in_memory=True),
    "CIFAR100": Known("meta", _TRAIN_FLAG, in_memory=True),
    "MNIST": Known("raw", _TRAIN_FLAG, in_memory=True),
    "FashionMNIST": Known("raw", _TRAIN_FLAG, in_memory=True),
    "KMNIST": Known("raw", _TRAIN_FLAG, in_memory=True),
    "SVHN": Known("train_32x32.mat", _TWO, in_memory=True, is_root=True),
    "STL10": Known("train_X.bin", _TWO, in_memory=True),
    "Food101": Known("meta/train.json", _TWO),
    "DTD": Known("dtd/labels/train1.txt", _THREE),
    "FGVCAircraft": Known("data/variants.txt", _THREE),
    "OxfordIIITPet": Known("annotations/trainval.txt", _TWO),
    "EuroSAT": Known("2750"),
    "SUN397": Known("ClassName.txt"),
}


class Torchvision(Reader):
    """By the name of its class (`task.name=CIFAR10 task.root=DATA`), or by its folder. Fetched only where asked to.

    CIFAR's files are pickles: torchvision opens them after comparing their checksums with those it knows, and so no
    others. Flowers102 and StanfordCars are read by the readers `flowers` and `cars`, whose files they are.
    """

    def recognises(self, path: Path) -> bool:
        """Whether it is the folder of a known data set, or a root with one and nothing else."""
        return path.is_dir() and _found(path) is not None

    def read(self, path: Path, options: ReadOptions) -> Task:
        """The task; a part that torchvision does not tell is set aside from train."""
        found = _found(path)
        if found is None:
            raise DataError(f"{shown(path)}: torchvision has no data set of such a folder; known: {', '.join(KNOWN)}")
        name, root = found
        if name == "OxfordIIITPet":
            return _pets(path, root / TORCHVISION[name], options)
        held = {part: _opened(name, root, arguments) for part, arguments in KNOWN[name].splits.items()}
        return (_of_arrays if KNOWN[name].in_memory else _of_files)(path, root, held, options)


def fetch(name: str, base: Path) -> None:
    """Let torchvision fetch a data set to where it is looked for.

    Args:
        name: Of torchvision's class.
        base: The folder that holds the data sets.

    Raises:
        DataError: When that fails.
    """
    known = KNOWN.get(name, Known(""))
    root = base / TORCHVISION[name] if known.is_root else base
    for arguments in known.splits.values():
        _opened(name, root, {**arguments, "download": True})


def _found(path: Path) -> tuple[str, Path] | None:
    """Which data set a path is of, and the root that torchvision is to be given."""
    for name, known in KNOWN.items():
        folder = TORCHVISION[name]
        if known.is_root and (path / known.marker).exists():
            return name, path
        if path.name == folder and (path / known.marker).exists():
            return name, path.parent
        if (path / folder / known.marker).exists() and [each.name for each in Tree(path).folders(path)] == [folder]:
            return name, path / folder if known.is_root else path
    return None


def _opened(name: str, root: Path, arguments: Arguments) -> Any:
    from torchvision import datasets  # slow to import, and needed here only

    is_of_files = name in KNOWN and not KNOWN[name].in_memory and name != "OxfordIIITPet"
    more = {"loader": Path} if is_of_files else {}  # its files' paths in place of what is in them
    try:
        return getattr(datasets, name)(root, **arguments, **more)
    except (OSError, RuntimeError, ValueError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{shown(root / TORCHVISION[name])}: torchvision's {name} cannot be read there ({reason}); remove the "
            "folder, and fetch the data again (task.download=true)"
        ) from error


def _of_files(path: Path, root: Path, held: Mapping[str, Any], options: ReadOptions) -> Task:
    lists = {}
    for part, dataset in held.items():
        pairs = [dataset[index] for index in range(len(dataset))]
        if len(held) == 1:
            pairs.sort()  # as the file system has them, which is in no order
        names = tuple(file.relative_to(path).as_posix() for file, _ in pairs)
        where = tuple(f"{part} entry {number}" for number in range(1, len(pairs) + 1))
        lists[part] = ImageList(root, names, tuple(str(label) for _, label in pairs), where)
    classes = {str(label): readable(str(name)) for label, name in enumerate(held["train"].classes)}
    return listed_task(path, "torchvision", lists, options, names=classes)


def _pets(path: Path, folder: Path, options: ReadOptions) -> Task:
    """Lines `IMAGE CLASS SPECIES BREED`; torchvision's class has no way to its files but through their pixels."""
    lists: dict[str, ImageList] = {}
    names: dict[str, str] = {}
    for part, file in (("train", "trainval.txt"), ("test", "test.txt")):
        rows = read_columns(folder / "annotations" / file, "IMAGE CLASS SPECIES BREED")
        labels = tuple(rest.split()[0] for _, rest in rows)
        prefix = (folder / "images").relative_to(path).as_posix()
        images = tuple(f"{prefix}/{name}.jpg" for name, _ in rows)
        lists[part] = ImageList(folder / "annotations" / file, images, labels)
        names |= {label: readable(name.rpartition("_")[0]) for (name, _), label in zip(rows, labels, strict=True)}
    return listed_task(path, "torchvision", lists, options, names=names)


def _of_arrays(path: Path, root: Path, held: Mapping[str, Any], options: ReadOptions) -> Task:
    images = {part: _images(dataset) for part, dataset in held.items()}
    labels = {part: _labels(dataset) for part, dataset in held.items()}
    classes = tuple(map(str, getattr(held["train"], "classes", None) or range(10)))
    whole = View.whole(ArraySource(images["train"]), labels["train"])
    numbered = Part(tuple(map(str, range(len(whole)))), labels["train"])
    kept, aside = set_aside(numbered, options.split_seed)
    views = {
        "train": whole.subset([int(name) for name in kept.names]),
        "val": whole.subset([int(name) for name in aside.names]),
        "trainval": whole,
        "test": View.whole(ArraySource(images["test"]), labels["test"]),
    }
    notes = missing_classes(classes, views)
    return Task(path.name, classes, "single_label", views, "torchvision", notes, options.split_seed, PUBLISHED_OVERLAP)


def _images(dataset: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """(N, H, W) or (N, H, W, 3)."""
    data = np.asarray(dataset.data, dtype=np.uint8)
    return data.transpose(0, 2, 3, 1) if data.ndim == 4 and data.shape[-1] != 3 else data


def _labels(dataset: Any) -> "np.ndarray[Any, np.dtype[np.int64]]":
    return np.asarray(dataset.targets if hasattr(dataset, "targets") else dataset.labels, dtype=np.int64)
