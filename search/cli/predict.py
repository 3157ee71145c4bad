"""`petlas predict`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from petlas.search.cli.arguments import Checkpoint, Format, FormatOption
from petlas.search.cli.output import print_json


def predict(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="An adapter file.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    checkpoint: Checkpoint = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Label images with an adapter file.

    Example: petlas predict runs/demo/best/adapter.safetensors photo.jpg
    """
    from petlas.search import api

    run = Path("runs") / adapter  # a run's name is told where its adapter file lies
    found = api.predict(run if run.is_dir() and not adapter.exists() else adapter, images, checkpoint)
    if format is Format.JSON:
        print_json([asdict(prediction) for prediction in found])
        return
    from petlas.search.reports.tables import drawn, show
    from petlas.search.reports.text import percent

    columns = ("image", "label", "confidence %#")
    show(drawn(columns, [(str(p.image), p.label, percent(p.confidence)) for p in found]))
