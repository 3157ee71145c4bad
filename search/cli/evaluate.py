"""`petlas evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from petlas.search.cli.arguments import Adapter, Checkpoint, Format, FormatOption, ValueRange, adapter_file
from petlas.search.cli.output import print_json


def evaluate(
    adapter: Adapter,
    task: Annotated[str, typer.Argument(metavar="TASK", help="A task's name or folder, with the same classes.")],
    root: Annotated[Path | None, typer.Option(help="Where data lies; by default $PETLAS_DATA.")] = None,
    view: Annotated[str, typer.Option(help="Which part: train, val, trainval or test.")] = "test",
    split_seed: Annotated[int, typer.Option(help="Of what is set aside where the data has no test or val.")] = 0,
    checkpoint: Checkpoint = None,
    value_range: ValueRange = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Measure an adapter on a task with the same classes: metrics, class by class, confusion and calibration.

    It reads the test images unless --view names others: do not choose between designs by them.

    Example: petlas evaluate runs/demo/best/adapter.safetensors digits
    """
    from petlas.search import api

    found = api.evaluate(
        adapter_file(adapter),
        task,
        root=root,
        view=view,
        split_seed=split_seed,
        checkpoint=checkpoint,
        value_range=value_range,
    )
    if format is Format.JSON:
        print_json(found.to_dict())
        return
    from petlas.search.reports.tables import evaluation_tables, show

    show(*evaluation_tables(found.to_dict()))
