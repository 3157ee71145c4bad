"""`petlas datasets`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from petlas.search.cli.arguments import Format, FormatOption
from petlas.search.cli.output import print_json


def datasets(
    root: Annotated[Path | None, typer.Option(help="Where data lies; by default $PETLAS_DATA.")] = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """List the known tasks: which are found, whether their files are in order, and their counts.

    Example: petlas datasets --root data
    """
    from petlas.datasets import list_tasks
    from petlas.search.reports.tables import datasets_tables, show

    rows = [asdict(info) for info in list_tasks(root)]
    if format is Format.JSON:
        print_json(rows)
        return
    show(*datasets_tables(rows))
