"""`petlas search`."""

from __future__ import annotations

import sys

import typer

from petlas.search.cli.arguments import Configs, Format, FormatOption, load_configs
from petlas.search.cli.output import print_json_of


def search(arguments: Configs, format: FormatOption = Format.TABLE) -> None:
    """Run or resume the search of each configuration. Repeating the command resumes.

    Example: petlas search demo search.trials=40
    """
    configs = load_configs(arguments)
    from petlas.search import api
    from petlas.search.reports.sections import sections
    from petlas.search.reports.tables import show
    from petlas.search.reports.text import candidate_text, shown

    results = api.search(configs)
    if format is Format.JSON:
        print_json_of([result.to_dict() for result in results])
    for config, result in zip(configs, results, strict=True):
        folder = shown(config.folder)
        if result.best is None:
            log_file = shown(config.folder / "log.txt")
            print(f"no trial of {folder} came to its end; see {log_file}", file=sys.stderr)
        elif format is Format.TABLE:
            show(*sections(api.study(config)))
            show(f"{folder}: {candidate_text(result.best.design, result.best.settings)}")
    if any(result.best is None for result in results):
        raise typer.Exit(1)
