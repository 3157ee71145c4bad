"""`petlas study`."""

from __future__ import annotations

from petlas.search.cli.arguments import Format, FormatOption, Run
from petlas.search.cli.output import print_json


def study(run: Run, format: FormatOption = Format.TABLE) -> None:
    """Show the trials of a run, its Pareto front and its best design.

    Example: petlas study runs/demo --format json
    """
    from petlas.search import api
    from petlas.search.run_folder import find_run

    report = api.study(find_run(run))
    if format is Format.JSON:
        print_json(report.to_dict())
        return
    from petlas.search.reports.sections import sections
    from petlas.search.reports.tables import show

    show(*sections(report))
