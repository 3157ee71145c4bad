"""`petlas plan`."""

from __future__ import annotations

from dataclasses import asdict

from petlas.search.cli.arguments import Configs, Format, FormatOption, load_configs
from petlas.search.cli.output import print_json_of


def plan(arguments: Configs, format: FormatOption = Format.TABLE) -> None:
    """Say what the search of each configuration would cost before it starts, at most: parameters, time, R, disk.

    R is the price of one training run at full epochs; a step is measured, here or on the cluster, on random weights.

    Example: petlas plan noah task.name=dtd task.root=data
    """
    configs = load_configs(arguments)
    from petlas.search import api
    from petlas.search.reports.tables import plan_tables, show

    plans = [asdict(api.plan(config)) for config in configs]
    if format is Format.JSON:
        print_json_of(plans)
        return
    for config, each in zip(configs, plans, strict=True):
        show(*plan_tables(config.name, each))
