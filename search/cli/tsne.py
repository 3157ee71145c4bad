"""`petlas tsne`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from petlas.search.cli.arguments import Adapter, Checkpoint, TableFormat, TableFormatOption, adapter_file
from petlas.search.cli.output import print_csv, print_json


def tsne(
    adapter: Adapter,
    task: Annotated[str, typer.Argument(metavar="TASK", help="A task's name or folder.")],
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("tsne.png"),
    root: Annotated[Path | None, typer.Option(help="Where data lies; by default $PETLAS_DATA.")] = None,
    view: Annotated[str, typer.Option(help="Which part: train, val, trainval or test.")] = "test",
    images: Annotated[int, typer.Option(min=1, help="At most how many.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of what is chosen, and of t-SNE.")] = 0,
    checkpoint: Checkpoint = None,
    format: TableFormatOption = TableFormat.TABLE,
) -> None:
    """Draw the features of a task's images in the plane by t-SNE, before tuning and after.

    It reads the test images unless --view names others: do not choose between designs by them.

    Example: petlas tsne runs/demo/best/adapter.safetensors digits --out tsne.png
    """
    from petlas.search import api

    found = api.tsne(
        adapter_file(adapter), task, out=out, root=root, view=view, images=images, seed=seed, checkpoint=checkpoint
    )
    if format is TableFormat.JSON:
        print_json({"path": str(out), "silhouette": found.silhouette, "points": found.rows()})
        return
    if format is TableFormat.CSV:
        print_csv(found.rows())
        return
    from petlas.search.reports.tables import show
    from petlas.search.reports.text import shown

    parted = {which: "-" if value is None else f"{value:.2f}" for which, value in found.silhouette.items()}
    show(
        f"wrote {shown(out)}: {len(found.labels):,} images; silhouette of the classes {parted['backbone']} before, "
        f"{parted['design']} after"
    )
