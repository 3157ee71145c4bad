"""`petlas score`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from petlas.search.cli.arguments import Configs, Format, FormatOption, load_configs
from petlas.search.cli.output import print_json_of

if TYPE_CHECKING:
    from petlas.search.config import RunConfig
    from petlas.search.sensitivity import SensitivityReport

log = logging.getLogger("petlas")


def score(arguments: Configs, format: FormatOption = Format.TABLE) -> None:
    """Measure how sensitive the loss is to each weight, and give budgets to the most sensitive ones.

    Writes sensitivity.json and sensitivity.png to each run folder, and sensitivity.html beside them to compare tasks.

    Example: petlas score demo sensitivity.rule=proportional
    """
    configs = load_configs(arguments)
    from petlas.search import api
    from petlas.search.reports.tables import sensitivity_tables, show
    from petlas.search.reports.text import shown

    reports = api.score(configs)
    pictures = _draw(configs, reports)
    if format is Format.JSON:
        print_json_of([asdict(report) for report in reports])
        return
    for report in reports:
        show(*sensitivity_tables(asdict(report)))
    for path in pictures:
        show(f"wrote {shown(path)}")


def _draw(configs: Sequence[RunConfig], reports: Sequence[SensitivityReport]) -> list[Path]:
    """The pictures that were drawn: a heat map for each run, and a page if there are several."""
    from petlas.search.sensitivity import PICTURE

    try:
        from petlas.search.reports.heatmap import write_comparison, write_heat_map
    except ImportError:
        log.warning("no pictures: they need matplotlib; pip install 'petlas[report]'")
        return []
    pictures = [config.folder / PICTURE for config in configs]
    for path, report in zip(pictures, reports, strict=True):
        write_heat_map(report, path)
    if len(configs) > 1:
        pictures.append(configs[0].folder.parent / "sensitivity.html")
        write_comparison(reports, pictures[-1])
    return pictures
