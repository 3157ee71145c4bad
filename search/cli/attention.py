"""`petlas attention`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from petlas.search.cli.arguments import Adapter, Checkpoint, Format, FormatOption, adapter_file
from petlas.search.cli.output import print_json


def attention(
    adapter: Adapter,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file.")],
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("attention.png"),
    block: Annotated[int, typer.Option(help="The block whose heads are shown; negative from the end.")] = -1,
    checkpoint: Checkpoint = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Draw what the output attends to in an image, with the design and without: roll-out, and each head of a block.

    Example: petlas attention runs/demo/best/adapter.safetensors photo.jpg --out attention.png
    """
    from petlas.search import api

    found = api.attention(adapter_file(adapter), image, out=out, block=block, checkpoint=checkpoint)
    if format is Format.JSON:
        print_json(found.to_dict() | {"path": str(out)})
        return
    from petlas.search.reports.tables import show
    from petlas.search.reports.text import shown

    show(f"wrote {shown(out)}: roll-out and the heads of block {found.block}, with the design and without")
