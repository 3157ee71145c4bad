"""`petlas methods`."""

from __future__ import annotations

from typing import Annotated

import typer

from petlas.search.cli.arguments import Format, FormatOption
from petlas.search.cli.output import print_json


def methods(
    backbone: Annotated[str, typer.Option(help="A timm name: what the sizes and counts are for.")] = (
        "vit_base_patch16_224"
    ),
    format: FormatOption = Format.TABLE,
) -> None:
    """List the methods: what each is, where it goes, and its parameters at its default size.

    Example: petlas methods --backbone vit_small_patch14_dinov2
    """
    from petlas.search.reports.listing import list_methods
    from petlas.search.reports.tables import methods_tables, show

    rows = list_methods(backbone)
    if format is Format.JSON:
        print_json(rows)
        return
    show(*methods_tables(rows, backbone))
