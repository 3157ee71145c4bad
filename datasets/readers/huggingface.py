"""Reads what Hugging Face `datasets` keeps with `save_to_disk`: Arrow files with their columns' kinds beside them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from petlas.datasets.errors import DataError, shown
from petlas.datasets.images import ValueRange, decode_image
from petlas.datasets.readers.base import Part, Reader, ReadOptions, missing_classes, set_aside
from petlas.datasets.readers.files import Object, read_json
from petlas.datasets.readers.folder import split_of
from petlas.datasets.sources import joined
from petlas.datasets.split import Indices
from petlas.datasets.task import Task, View

DICT, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"


@dataclass(frozen=True, eq=False)
class ArrowSource:
    """Images in a column of Arrow files, which are mapped and not read as a whole.

    Args:
        root: The data's folder.
        files: The Arrow files, relative to it.
        column: The images'.
        rows: (M,) which rows of all files together.
        value_range: What is black and white in images of more than 8 bits.
    """

    root: Path
    files: tuple[str, ...]
    column: str
    rows: npt.NDArray[np.int64]
    value_range: ValueRange | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the mapped column: each process maps it for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "_images"}

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """Its row, counted over all files."""
        return f"row {self.rows[index]}"

    def place(self, index: int) -> str:
        """How an error names the image."""
        return f"{shown(self.root)} {self.name(index)} of {', '.join(self.files[:2])}"

    def image(self, index: int) -> Image.Image:
        """The image as RGB, upright."""
        return decode_image(self._content(index), self.place(index), self.value_range)

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """The sha256 of each image file's content."""
        return tuple(hashlib.sha256(self._content(index)).hexdigest() for index in range(len(self)))

    def fingerprint(self, indices: Indices | None = None) -> str:
        """Hash of the images' contents in their order, and of the range of values."""
        return joined(self.hashes, indices, f" {self.value_range}" if self.value_range else "")

    @cached_property
    def _images(self) -> Any:
        return column_of([self.root / file for file in self.files], self.column)

    def _content(self, index: int) -> bytes:
        held = self._images[int(self.rows[index])].as_py() or {}
        if held.get("bytes") is not None:
            return bytes(held["bytes"])
        try:
            return (self.root / str(held["path"])).read_bytes()
        except (OSError, KeyError) as error:
            raise DataError(
                f"{self.place(index)}: the image is kept neither here nor as a file ({error}); save the data again"
            ) from error


class HuggingFace(Reader):
    """A column of images, and one of labels with the names of the classes. No pickle is opened, nothing downloaded."""

    def recognises(self, path: Path) -> bool:
        """Whether the folder is that of one data set, or of several splits."""
        return (path / DICT).is_file() or ((path / STATE).is_file() and (path / INFO).is_file())

    def read(self, path: Path, options: ReadOptions) -> Task:
        """The task; a split that is missing is set aside from train."""
        folders = _splits(path)
        image, label, classes = _columns(folders["train"])
        files = {part: _files(path, folder) for part, folder in folders.items()}
        parts: dict[str, Part] = {}
        for part, names in files.items():
            parts[part] = _part([path / name for name in names], label, len(classes), folders[part])
        was_split = len(parts) < 3
        origin = {"train": "train"} | {part: part if part in parts else "train" for part in ("val", "test")}
        for missing in ("test", "val"):
            if missing not in parts:
                parts["train"], parts[missing] = set_aside(parts["train"], options.split_seed)
        rows = {part: np.array([int(name) for name in each.names], dtype=np.int64) for part, each in parts.items()}
        learned = files["train"] + (files["val"] if origin["val"] == "val" else ())
        shift = _length([path / name for name in files["train"]]) if origin["val"] == "val" else 0
        both = np.concatenate([rows["train"], rows["val"] + shift])
        source = ArrowSource(path, learned, image, both, options.value_range)
        count = len(rows["train"])
        targets = np.concatenate([parts["train"].targets, parts["val"].targets])
        whole = View.whole(source, targets)
        judged = ArrowSource(path, files[origin["test"]], image, rows["test"], options.value_range)
        views = {
            "train": whole.subset(range(count)),
            "val": whole.subset(range(count, len(both))),
            "trainval": whole,
            "test": View.whole(judged, parts["test"].targets),
        }
        seed = options.split_seed if was_split else None
        return Task(path.name, classes, "single_label", views, "huggingface", missing_classes(classes, views), seed)


def column_of(files: list[Path], column: str) -> Any:
    """A column of Arrow files, mapped.

    Args:
        files: Streams of record batches.
        column: Its name.

    Raises:
        DataError: When one cannot be read.
    """
    import pyarrow as pa  # slow to import, and needed here only

    chunks = []
    for file in files:
        try:
            chunks += pa.ipc.open_stream(pa.memory_map(str(file))).read_all().column(column).chunks
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{shown(file)}: the Arrow file cannot be read ({reason}); save the data again") from error
    return pa.chunked_array(chunks)


def _splits(path: Path) -> dict[str, Path]:
    if not (path / DICT).is_file():
        return {"train": path}
    names = dict(_object(path / DICT)).get("splits")
    folders: dict[str, Path] = {}
    for name in names if isinstance(names, list) else ():
        part = split_of(str(name))
        if part is None or part in folders:
            raise DataError(
                f"{shown(path / DICT)}: splits must be one each of train, val (validation) and test, got {names}; "
                "keep those with `DatasetDict.save_to_disk`"
            )
        folders[part] = path / str(name)
    if "train" not in folders:
        raise DataError(f"{shown(path / DICT)}: there must be a split train, got {names}")
    return folders


def _columns(folder: Path) -> tuple[str, str, tuple[str, ...]]:
    """The columns of images and labels, and the classes' names."""
    features = dict(_object(folder / INFO)).get("features")
    kinds: dict[str, Mapping[str, Any]] = {}
    for name, feature in features if isinstance(features, Object) else ():
        kinds[name] = dict(feature) if isinstance(feature, Object) else {}
    images = [name for name, kind in kinds.items() if kind.get("_type") == "Image"]
    labels = [name for name, kind in kinds.items() if kind.get("_type") == "ClassLabel"]
    chosen = [name for name in labels if name in ("label", "labels")] or labels
    if len(images) != 1 or len(chosen) != 1:
        raise DataError(
            f"{shown(folder / INFO)}: there must be one column of images and one of labels (a ClassLabel), got images "
            f"{', '.join(images) or 'none'} and labels {', '.join(labels) or 'none'}; remove the others, or rename the "
            "one to learn to `label`, and save the data again"
        )
    return images[0], chosen[0], tuple(map(str, kinds[chosen[0]].get("names") or ()))


def _files(root: Path, folder: Path) -> tuple[str, ...]:
    state = dict(_object(folder / STATE))
    if state.get("_indices_data_files"):
        raise DataError(
            f"{shown(folder / STATE)}: some rows are chosen by an index; `flatten_indices()` and save again"
        )
    listed = state.get("_data_files")
    names = [dict(each).get("filename") for each in listed if isinstance(each, Object)] if listed else []
    if not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{shown(folder / STATE)}: it names no data files; save the data again")
    return tuple((folder / str(name)).relative_to(root).as_posix() for name in names)


def _object(file: Path) -> Object:
    held = read_json(file)
    if not isinstance(held, Object):
        raise DataError(f"{shown(file)}: it must be a JSON object; save the data again")
    return held


def _length(files: list[Path]) -> int:
    import pyarrow as pa

    return sum(pa.ipc.open_stream(pa.memory_map(str(file))).read_all().num_rows for file in files)


def _part(files: list[Path], label: str, classes: int, folder: Path) -> Part:
    """The rows of a split, named by their numbers, and their labels."""
    held = column_of(files, label).to_pylist()
    for row, value in enumerate(held):
        if not isinstance(value, int) or not 0 <= value < classes:
            hidden = " (test labels that are kept secret are -1)" if value == -1 else ""
            raise DataError(
                f"{shown(folder)} row {row}: label {value} is out of range 0..{classes - 1}{hidden}; remove the split "
                "or correct it"
            )
    return Part(tuple(map(str, range(len(held)))), np.array(held, dtype=np.int64))
