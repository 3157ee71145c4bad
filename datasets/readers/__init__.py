"""The layouts that data can lie in. To add one: write its file, and add its line here."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from petlas.lazy import look_up

if TYPE_CHECKING:
    from petlas.datasets.readers.base import Reader

READERS: dict[str, str] = {
    "digits": "petlas.datasets.readers.digits:Digits",
    "vtab": "petlas.datasets.readers.vtab:VTAB1k",
    "fgvc_json": "petlas.datasets.readers.fgvc_json:FgvcJson",
    "noah": "petlas.datasets.readers.noah:NoahLists",
    "coop": "petlas.datasets.readers.coop:CoopSplit",
    "cub": "petlas.datasets.readers.cub:Cub",
    "flowers": "petlas.datasets.readers.flowers:Flowers",
    "dogs": "petlas.datasets.readers.dogs:Dogs",
    "cars": "petlas.datasets.readers.cars:Cars",
    "torchvision": "petlas.datasets.readers.torchvision:Torchvision",
    "huggingface": "petlas.datasets.readers.huggingface:HuggingFace",
    "image_label_list": "petlas.datasets.readers.image_label_list:ImageLabelList",
    "table": "petlas.datasets.readers.table:Table",
    "folder": "petlas.datasets.readers.folder:ClassFolders",
}


def get_reader(layout: str) -> Reader:
    """The reader of that layout; its file is imported when it is first asked for.

    Raises:
        KeyError: When no reader has that name.
    """
    return _load(READERS[layout])


def layout_of(folder: Path) -> str | None:
    """The name of the reader for a folder or file, or None: the first that is certain, else the first to know it."""
    layouts = [layout for layout in READERS if folder.exists() and get_reader(layout).recognises(folder)]
    return next((layout for layout in layouts if get_reader(layout).certain(folder)), next(iter(layouts), None))


def is_certain(folder: Path) -> bool:
    """Whether a folder is of some layout beyond doubt."""
    layout = layout_of(folder)
    return layout is not None and get_reader(layout).certain(folder)


@cache
def _load(place: str) -> Reader:
    reader: Reader = look_up(place)()
    return reader


__all__ = ["READERS", "get_reader", "is_certain", "layout_of"]
