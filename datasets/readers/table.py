"""Reads a table of images and labels: CSV, TSV or Parquet, one for all splits or one for each."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petlas.datasets.errors import DataError, shown
from petlas.datasets.lists import ImageList
from petlas.datasets.readers.base import Reader, ReadOptions
from petlas.datasets.readers.folder import split_of
from petlas.datasets.readers.listed import PARTS, below, listed_task
from petlas.datasets.task import Task

SUFFIXES = (".csv", ".tsv", ".parquet")
STEMS = ("labels", "metadata", "annotations", *PARTS)
IMAGE = ("image", "path", "file_name", "filename", "filepath", "file", "image_path")
LABEL = ("label", "class", "target", "category", "class_name")
SPLIT = ("split", "subset", "set")

_NEEDED = f"needed are an image's ({', '.join(IMAGE)}) and a label's ({', '.join(LABEL)})"


class Table(Reader):
    """Columns of images and labels, and where there is one of splits; images are named from the table's folder.

    A folder may hold `labels.csv` (or metadata, annotations), or `train.csv` with `val.csv` and `test.csv`.
    """

    def recognises(self, path: Path) -> bool:
        """Whether it is such a file, or a folder with one, by the names of its columns."""
        tables = _tables(path)
        return bool(tables) and (path.is_file() or all(_columns_of(_head(file)) for file in tables))

    def certain(self, path: Path) -> bool:
        """A table may lie beside class folders in folders of splits, which say more."""
        return path.is_file()

    def read(self, path: Path, options: ReadOptions) -> Task:
        """The task; a split that no table names is set aside."""
        tables = _tables(path)
        root = path.parent if path.is_file() else path
        rows = [row for file in tables for row in _rows(file)]
        splits: dict[str, list[_Row]] = {}
        for row in rows:
            splits.setdefault(row.split, []).append(row)
        if "train" not in splits:
            raise DataError(f"{shown(path)}: some rows must be of train, got {', '.join(splits) or 'no row'}")
        lists = {part: below(root, _list(each), ("", "images")) for part, each in splits.items()}
        return listed_task(root, "table", lists, options, published=False)


@dataclass(frozen=True)
class _Row:
    file: Path
    where: str
    image: str
    label: str
    split: str


def _tables(path: Path) -> list[Path]:
    """The file itself; or those in a folder: one for each split, else one for all."""
    if path.is_file():
        return [path] if path.suffix.lower() in SUFFIXES else []
    files = {
        stem: path / f"{stem}{suffix}" for stem in STEMS for suffix in SUFFIXES if (path / f"{stem}{suffix}").is_file()
    }
    parts = [files[part] for part in PARTS if part in files]
    if "train" in files:
        return parts
    return [files[stem] for stem in STEMS if stem in files][:1]


def _columns_of(names: Sequence[str]) -> tuple[str, str, str | None] | None:
    """Those of images, labels and splits, or None where one is missing."""
    known = {name.strip().lower(): name for name in reversed(names)}
    image, label, split = (next((known[n] for n in each if n in known), None) for each in (IMAGE, LABEL, SPLIT))
    return (image, label, split) if image is not None and label is not None else None


def _head(file: Path) -> list[str]:
    try:
        return _open(file)[0]
    except DataError:
        return list(IMAGE[:1] + LABEL[:1])  # a damaged table is told when it is read


def _rows(file: Path) -> list[_Row]:
    head, numbered = _open(file)
    columns = _columns_of(head)
    if columns is None:
        raise DataError(
            f"{shown(file)}: the columns are {', '.join(map(shown, head)) or 'none'}; {_NEEDED}: rename them"
        )
    image, label, split = columns
    rows = []
    for where, values in numbered:
        cells = {name: values.get(name) for name in (image, label)}
        empty = [name for name, value in cells.items() if value is None or not str(value).strip()]
        if empty:
            raise DataError(f"{shown(file)} {where}: {shown(empty[0])} is empty; fill it in or remove the row")
        told = str(values.get(split) or "").strip() if split else (split_of(file.stem) and file.stem) or "train"
        part = split_of(told)
        if part is None:
            raise DataError(
                f"{shown(file)} {where}: {shown(split)} must be train, val or test, got {told!r}; correct it"
            )
        rows.append(_Row(file, where, _text(cells[image]), _text(cells[label]), part))
    return rows


def _text(value: Any) -> str:
    """A cell as text; a whole number that a tool wrote as 3.0 is 3."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _open(file: Path) -> tuple[list[str], list[tuple[str, Mapping[str, Any]]]]:
    """The names of the columns, and each row with where it stands."""
    try:
        return _parquet(file) if file.suffix.lower() == ".parquet" else _csv(file)
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are of these kinds
        reason = " ".join(str(error).split())
        raise DataError(f"{shown(file)}: the table cannot be read ({reason}); write it again") from error


def _csv(file: Path) -> tuple[list[str], list[tuple[str, Mapping[str, Any]]]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        head = stream.readline()
        stream.seek(0)
        separator = "\t" if file.suffix.lower() == ".tsv" else max(",;\t", key=head.count)
        reader = csv.DictReader(stream, delimiter=separator, strict=True)
        rows: list[tuple[str, Mapping[str, Any]]] = []
        for row in reader:
            if None in row:
                raise ValueError(f"line {reader.line_num} has more cells than there are columns")
            rows.append((f"line {reader.line_num}", row))
        return list(reader.fieldnames or ()), rows


def _parquet(file: Path) -> tuple[list[str], list[tuple[str, Mapping[str, Any]]]]:
    from pyarrow import parquet  # slow to import, and needed here only

    held = parquet.ParquetFile(file)
    names = list(held.schema_arrow.names)
    if (columns := _columns_of(names)) is None:
        return names, []
    rows = held.read(columns=[name for name in columns if name is not None]).to_pylist()
    if rows and isinstance(rows[0][columns[0]], dict):
        raise ValueError("it holds the images themselves; keep it with datasets' `save_to_disk` and give that folder")
    return names, [(f"row {number}", row) for number, row in enumerate(rows, 1)]


def _list(rows: Sequence[_Row]) -> ImageList:
    return ImageList(
        rows[0].file,
        tuple(row.image for row in rows),
        tuple(row.label for row in rows),
        tuple(row.where for row in rows),
    )
