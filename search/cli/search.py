"""`petlas search`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from petlas.search.cli.arguments import Configs, Format, FormatOption, load_configs
from petlas.search.cli.output import print_json_of


def search(
    arguments: Configs,
    format: FormatOption = Format.TABLE,
    report: Annotated[bool, typer.Option("--report", help="Write report.html anew behind every stage.")] = False,
) -> None:
    """Run or resume the search of each configuration, all of them at once. Repeating the command resumes.

    A group or a list of tasks is several runs. Example: petlas search demo search.trials=40

    Example: petlas search "vtab/*" task.root=data
    """
    configs = load_configs(arguments)
    from petlas.search import api
    from petlas.search.reports.sections import sections
    from petlas.search.reports.tables import show
    from petlas.search.reports.text import chosen_text, shown
    from petlas.search.results import SearchesStopped

    stopped: SearchesStopped | None = None
    try:
        results = api.search(configs, report)
    except SearchesStopped as error:
        stopped, results = error, error.results
    if format is Format.JSON:
        print_json_of([result.to_dict() for result in results])
    for config, result in zip(configs, results, strict=True):
        folder = shown(config.folder)
        if result.error is not None:
            continue
        if result.best is None:
            log_file = shown(config.folder / "log.txt")
            print(f"no trial of {folder} came to its end; see {log_file}", file=sys.stderr)
        elif format is Format.TABLE:
            show(*sections(api.study(config).brief()))
            show(f"{folder}: {chosen_text(result.best.design, result.best.settings)}")
    if stopped is not None:
        print(f"petlas: {stopped}", file=sys.stderr)
        raise typer.Exit(2 if stopped.of_user else 1)
    if any(result.best is None for result in results):
        raise typer.Exit(1)
