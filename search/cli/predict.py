"""`petlas predict`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from petlas.search.cli.arguments import (
    Adapter,
    Checkpoint,
    TableFormat,
    TableFormatOption,
    ValueRange,
    adapter_file,
)
from petlas.search.cli.output import print_csv, print_json


def predict(
    adapter: Adapter,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")],
    checkpoint: Checkpoint = None,
    value_range: ValueRange = None,
    format: TableFormatOption = TableFormat.TABLE,
) -> None:
    """Label images with an adapter file; of a folder all that are in it, at any depth.

    Example: petlas predict runs/demo/best/adapter.safetensors photo.jpg
    """
    from petlas.search import api

    found = api.predict(adapter_file(adapter), images, checkpoint, value_range)
    if format is TableFormat.JSON:
        print_json([asdict(prediction) for prediction in found])
        return
    if format is TableFormat.CSV:
        print_csv([{"image": p.image, "label": p.label, "confidence": p.confidence} for p in found])
        return
    from petlas.search.reports.tables import drawn, show
    from petlas.search.reports.text import percent

    columns = ("image", "label", "confidence %#")
    show(drawn(columns, [(str(p.image), p.label, percent(p.confidence)) for p in found]))
