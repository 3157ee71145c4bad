"""The command line. Heavy modules are imported by the commands that need them, so that `--help` is quick."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

log = logging.getLogger("petlas")

app = typer.Typer(
    help="Search parameter-efficient designs for a pretrained vision backbone and a data set.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Format(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--format", "-f", help="Print a table, or JSON for other programs.")]
Configs = Annotated[
    list[str], typer.Argument(metavar="CONFIG... [key=value ...]", help="Configurations, and overrides for all.")
]
Run = Annotated[str, typer.Argument(help="A run folder, or its name in runs/.", metavar="RUN")]

_USER_ERRORS = frozenset(
    {"ConfigError", "DataError", "DesignError", "SpaceError", "BackboneError", "AdapterError", "RunError"}
)
"""By name: importing the classes would import torch."""


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=2))


def _split_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Configurations and `key=value` overrides; a path that exists is a configuration even with `=` in its name."""
    overrides = [text for text in arguments if "=" in text and not Path(text).exists()]
    names = [text for text in arguments if text not in overrides]
    if not names:
        raise typer.BadParameter(f"at least one CONFIG is needed, got only overrides: {' '.join(overrides)}")
    return names, overrides


@app.command()
def search(
    arguments: Configs,
    format: FormatOption = Format.TABLE,
) -> None:
    """Run or resume the search of each configuration. Repeating the command resumes.

    Example: petlas search demo search.trials=40
    """
    from petlas.search.config import load_config
    from petlas.search.run_folder import check_same

    names, overrides = _split_arguments(arguments)
    configs = [load_config(name, overrides) for name in names]
    for config in configs:
        check_same(config)
    from petlas.search.driver import search as run_search
    from petlas.search.record import StudyRecord, design_of, row_of
    from petlas.search.report import as_json
    from petlas.search.tables import console, study_table

    results = []
    for config in configs:
        log.info("searching %s in %s", config.task.name, config.folder)
        try:
            best = run_search(config)
        except KeyboardInterrupt:
            again = " ".join(["petlas search", *arguments])
            print(f"\nstopped; finished trials are kept in {config.folder}. To go on: {again}", file=sys.stderr)
            raise typer.Exit(130) from None
        if best is None:
            print(f"no trial of {config.folder} came to its end; see {config.folder / 'log.txt'}", file=sys.stderr)
            raise typer.Exit(1)
        results.append({"run": str(config.folder), "best": asdict(row_of(best)), "value": best.values[0]})
        if format is Format.TABLE:
            study_table(as_json(StudyRecord.in_folder(config.folder, config.storage)), None)
            console.print(f"{config.folder}: {design_of(best)}")
    if format is Format.JSON:
        _print_json(results if len(results) > 1 else results[0])


@app.command()
def score(
    arguments: Configs,
    format: FormatOption = Format.TABLE,
) -> None:
    """Measure how sensitive the loss is to each weight, and give budgets to the most sensitive ones.

    Writes sensitivity.json and sensitivity.png to each run folder, and sensitivity.html beside them to compare tasks.

    Example: petlas score demo sensitivity.rule=proportional
    """
    from petlas.search.config import load_config

    names, overrides = _split_arguments(arguments)
    configs = [load_config(name, overrides) for name in names]
    from petlas.search.driver import checked_session
    from petlas.search.run_folder import check_same, opened
    from petlas.search.sensitivity import PICTURE, report_of
    from petlas.search.tables import console, sensitivity_tables

    for config in configs:
        check_same(config)
        checked_session(config)
    reports = []
    for config in configs:
        with opened(config):
            reports.append(report_of(config))
        if format is Format.TABLE:
            sensitivity_tables(asdict(reports[-1]))
    try:
        from petlas.search.heatmap import write_comparison, write_heat_map
    except ImportError:
        log.warning("no pictures: they need matplotlib; pip install 'petlas[report]'")
    else:
        for config, report in zip(configs, reports, strict=True):
            write_heat_map(report, config.folder / PICTURE)
            if format is Format.TABLE:
                console.print(f"wrote {config.folder / PICTURE}")
        if len(configs) > 1:
            page = configs[0].folder.parent / "sensitivity.html"
            write_comparison(reports, page)
            if format is Format.TABLE:
                console.print(f"wrote {page}")
    if format is Format.JSON:
        data = [asdict(report) for report in reports]
        _print_json(data if len(data) > 1 else data[0])


@app.command()
def study(run: Run, format: FormatOption = Format.TABLE) -> None:
    """Show the trials of a run, its Pareto front and its best design.

    Example: petlas study runs/demo --format json
    """
    from petlas.search.record import StudyRecord
    from petlas.search.report import as_json
    from petlas.search.run_folder import find_run
    from petlas.search.tables import study_table

    config = find_run(run)
    data = as_json(StudyRecord.in_folder(config.folder, config.storage))
    if format is Format.JSON:
        _print_json(data)
        return
    from petlas.datasets import DataError
    from petlas.search.training import open_run_task

    try:
        images = len(open_run_task(config).splits["val"])
    except DataError:  # the study can be read where the data is not
        images = None
    study_table(data, images)


@app.command()
def retrain(
    run: Run,
    trial: Annotated[int | None, typer.Option(help="Retrain this trial instead of the best one.")] = None,
    design: Annotated[Path | None, typer.Option(help="Retrain the design of this YAML file.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many; by default protocol.retrain_seeds.")] = None,
    baselines: Annotated[bool, typer.Option("--baselines", help="Retrain the baselines too, to compare.")] = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Retrain the best design on train+val, test it once, and write the adapter file.

    Example: petlas retrain runs/demo --seeds 3
    """
    from petlas.search.retrain import choose, retrain_baselines
    from petlas.search.retrain import retrain as run_retrain
    from petlas.search.run_folder import find_run
    from petlas.search.tables import outcome_table

    if trial is not None and design is not None:
        raise typer.BadParameter("give --trial or --design, not both")
    config = find_run(run)
    seeds = seeds or config.protocol.retrain_seeds
    chosen, val = choose(config, trial, design)
    others = retrain_baselines(config, seeds) if baselines else []
    outcome = run_retrain(config, chosen, seeds, val)
    adapter = config.folder / "best" / "adapter.safetensors"
    if format is Format.JSON:
        data = asdict(outcome) | {"adapter": str(adapter)}
        _print_json(data | ({"baselines": [asdict(other) for other in others]} if baselines else {}))
        return
    outcome_table([asdict(each) for each in [*others, outcome]])
    print(f"wrote {adapter}")


@app.command()
def predict(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="An adapter file.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    checkpoint: Annotated[str | None, typer.Option(help="The backbone's weights, if they are a local file.")] = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Label images with an adapter file.

    Example: petlas predict runs/demo/best/adapter.safetensors photo.jpg
    """
    from petlas.search.predict import predict as run_predict
    from petlas.search.tables import percent, table

    found = run_predict(adapter, images, checkpoint)
    if format is Format.JSON:
        _print_json([asdict(prediction) for prediction in found])
        return
    table(("image", "label", "confidence %#"), [(p.image, p.label, percent(p.confidence)) for p in found])


@app.command()
def validate(
    arguments: Configs,
    format: FormatOption = Format.TABLE,
) -> None:
    """Check configurations without running them; every fault is listed.

    Example: petlas validate configs/demo.yaml train.epochs=20
    """
    from petlas.search.config import ConfigError, load_config

    names, overrides = _split_arguments(arguments)
    faults = []
    for name in names:
        try:
            load_config(name, overrides)
        except ConfigError as error:
            faults += [
                {"config": name, "path": fault.path, "value": fault.value, "rule": fault.rule} for fault in error.faults
            ]
            if format is Format.TABLE:
                print(error, file=sys.stderr)
        else:
            if format is Format.TABLE:
                print(f"{name}: ok")
    if format is Format.JSON:
        print(json.dumps(faults, indent=2, default=str))
    if faults:
        raise typer.Exit(2)


@app.command()
def plan(
    arguments: Configs,
    format: FormatOption = Format.TABLE,
) -> None:
    """Say what the search of each configuration would cost before it starts, at most: parameters, time, R, disk.

    R is the price of one training run at full epochs; a step of it is measured here, on random weights.

    Example: petlas plan noah task.name=dtd task.root=data
    """
    from petlas.search.config import load_config

    names, overrides = _split_arguments(arguments)
    configs = [load_config(name, overrides) for name in names]
    from petlas.search.plan import plan as make_plan
    from petlas.search.tables import plan_table

    plans = [asdict(make_plan(config)) for config in configs]
    if format is Format.JSON:
        _print_json(plans if len(plans) > 1 else plans[0])
        return
    for config, each in zip(configs, plans, strict=True):
        plan_table(config.name, each)


@app.command()
def methods(
    backbone: Annotated[str, typer.Option(help="A timm name: what the sizes and counts are for.")] = (
        "vit_base_patch16_224"
    ),
    format: FormatOption = Format.TABLE,
) -> None:
    """List the methods: what each is, where it goes, and its parameters at its default size.

    Example: petlas methods --backbone vit_small_patch14_dinov2
    """
    from petlas.search.listing import list_methods
    from petlas.search.tables import table

    rows = list_methods(backbone)
    if format is Format.JSON:
        _print_json(rows)
        return
    columns = ("method", "size", "params#", "zero-start", "mergeable", "what", "paper")
    table(
        columns,
        [
            (
                row["method"],
                "" if row["size"] is None else f"{row['size']} ({row['size_means']})",
                f"{row['params']:,}",
                "yes" if row["zero_start"] else "no",
                "yes" if row["mergeable"] else "no",
                row["summary"],
                row["paper"],
            )
            for row in rows
        ],
        title=f"at default size on {backbone}, head excluded",
    )


@app.command()
def datasets(
    root: Annotated[Path | None, typer.Option(help="Where data lies; by default $PETLAS_DATA.")] = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """List the known tasks: which are found, whether their files are in order, and their counts.

    Example: petlas datasets --root data
    """
    from petlas.datasets import list_tasks
    from petlas.search.tables import table

    rows = [asdict(info) for info in list_tasks(root)]
    if format is Format.JSON:
        print(json.dumps(rows, indent=2, default=str))
        return
    table(("task", "", "classes#", "images"), [_dataset_row(row) for row in rows])


def _dataset_row(row: dict[str, Any]) -> tuple[str, str, str, str]:
    counts = ", ".join(f"{name} {count:,}" for name, count in row["counts"].items())
    state = "not found" if not row["found"] else row["fault"] or "ok"
    return row["name"], state, str(row["num_classes"] or ""), counts


def _fail(error: Exception, debug: bool) -> NoReturn:
    if debug:
        raise error
    kind = type(error).__name__
    if kind in _USER_ERRORS:
        print(f"petlas: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"petlas: the run failed: {kind}: {error}\nfor the traceback: petlas --debug ...", file=sys.stderr)
    sys.exit(1)


def _interrupt(signal_number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command; exit status 0 done, 1 the run failed, 2 the user's input is wrong, 130 interrupted."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    level = logging.DEBUG if debug else logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(level)
    log.propagate = False
    signal.signal(signal.SIGTERM, _interrupt)
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    try:
        app()
    except KeyboardInterrupt:
        print("petlas: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        _fail(error, debug)
