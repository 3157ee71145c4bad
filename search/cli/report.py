"""`petlas report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from petlas.search.cli.arguments import Format, FormatOption, Runs
from petlas.search.cli.output import print_json


def report(
    runs: Runs,
    out: Annotated[
        Path | None, typer.Option(help="The page; by default report.html in the run or beside the runs.")
    ] = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Write one self-contained HTML page on a run, or on several to compare them; it opens anywhere, offline.

    Example: petlas report runs/demo
    """
    from petlas.search import api

    path = api.report(runs, out)
    if format is Format.JSON:
        print_json({"path": str(path)})
        return
    from petlas.search.reports.tables import show
    from petlas.search.reports.text import shown

    show(f"wrote {shown(path)}")
