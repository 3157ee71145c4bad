"""`petlas validate`."""

from __future__ import annotations

import sys

import typer

from petlas.search.cli.arguments import Configs, Format, FormatOption, split_arguments
from petlas.search.cli.output import print_json


def validate(arguments: Configs, format: FormatOption = Format.TABLE) -> None:
    """Check configurations without running them; every fault is listed.

    Example: petlas validate configs/demo.yaml train.epochs=20
    """
    from petlas.search.config import ConfigError, load_configs, missing_inputs

    names, overrides = split_arguments(arguments)
    listed = []
    for name in names:
        try:
            configs = load_configs(name, overrides)
            if missing := [fault for config in configs for fault in missing_inputs(config)]:
                raise ConfigError(name, missing)
        except ConfigError as error:
            listed += [{"config": name} | vars(fault) for fault in error.faults]
            if format is Format.TABLE:
                print(error, file=sys.stderr)
        else:
            if format is Format.TABLE:
                print(f"{name}: ok")
    if format is Format.JSON:
        print_json(listed)
    if listed:
        raise typer.Exit(2)
