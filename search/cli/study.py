"""`petlas study`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from petlas.search.cli.arguments import Runs, TableFormat, TableFormatOption
from petlas.search.cli.output import print_csv, print_json

if TYPE_CHECKING:
    from petlas.search.config import RunConfig

Dashboard = Annotated[bool, typer.Option("--dashboard", help="Serve Optuna's dashboard of it, on this machine alone.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Where the dashboard listens; 0 for any that is free.")]


def study(
    runs: Runs,
    top: Annotated[int | None, typer.Option(min=1, help="Only as many trials, the best first.")] = None,
    format: TableFormatOption = TableFormat.TABLE,
    dashboard: Dashboard = False,
    port: Port = 8080,
) -> None:
    """Show the trials of a run, its Pareto front and its best design; several runs are compared in one table.

    Example: petlas study runs/demo --format json
    """
    from petlas.search import api
    from petlas.search.run_folder import find_runs

    config, *others = find_runs(runs)
    if others:
        if top is not None or dashboard:
            raise typer.BadParameter(f"--top and --dashboard are for one run, got {1 + len(others)}; name one of them")
        _compare([config, *others], format)
        return
    if dashboard:
        _serve(config, port)
        return
    report = api.study(config)
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

    show(*sections(report if top is not None else report.brief()))


def _compare(configs: Sequence[RunConfig], format: TableFormat) -> None:
    """What each run found, and the means."""
    from petlas.search.reports.comparing import RunRow, columns, compared, note, summaries
    from petlas.search.reports.page.run import RunView
    from petlas.search.reports.tables import drawn, show

    views = [RunView.of(config) for config in configs]
    rows = [RunRow.of(view) for view in views]
    if format is TableFormat.JSON:
        print_json({"runs": [row.to_dict() for row in rows], "means": [asdict(mean) for mean in summaries(rows)]})
    elif format is TableFormat.CSV:
        print_csv([row.to_dict() for row in rows])
    else:
        show(drawn(columns(views), compared(views), f"{len(views)} runs"), note(views))


def _serve(config: RunConfig, port: int) -> None:
    """Until Ctrl-C, which is how it is meant to end."""
    from petlas.search.reports.dashboard import HOST, dashboard
    from petlas.search.reports.tables import show
    from petlas.search.waiting import never_silent

    with dashboard(config, port) as server, never_silent(lambda: None):
        show(f"{config.folder} as it is now: http://{HOST}:{server.server_port} (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
