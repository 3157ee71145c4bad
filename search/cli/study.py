"""`petlas study`."""

from __future__ import annotations

from typing import Annotated

import typer

from petlas.search.cli.arguments import Run, TableFormat, TableFormatOption
from petlas.search.cli.output import print_csv, print_json


def study(
    run: Run,
    top: Annotated[int | None, typer.Option(min=1, help="Only as many trials, the best first.")] = None,
    format: TableFormatOption = TableFormat.TABLE,
) -> None:
    """Show the trials of a run, its Pareto front and its best design.

    Example: petlas study runs/demo --format json
    """
    from petlas.search import api
    from petlas.search.run_folder import find_run

    report = api.study(find_run(run))
    if top is not None:
        report = report.top(top)
    if format is TableFormat.JSON:
        print_json(report.to_dict())
        return
    if format is TableFormat.CSV:
        print_csv(report.rows())
        return
    from petlas.search.reports.sections import sections
    from petlas.search.reports.tables import show

    show(*sections(report))
