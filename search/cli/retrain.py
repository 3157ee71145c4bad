"""`petlas retrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from petlas.search.cli.arguments import Format, FormatOption, Run
from petlas.search.cli.output import print_json


def retrain(
    run: Run,
    trial: Annotated[int | None, typer.Option(help="Retrain this trial instead of the best one.")] = None,
    design: Annotated[Path | None, typer.Option(help="Retrain the design of this YAML file.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many; by default protocol.retrain_seeds.")] = None,
    baselines: Annotated[bool, typer.Option("--baselines", help="Retrain the baselines too, to compare.")] = False,
    together: Annotated[bool, typer.Option("--together", help="Test the seeds together, too: see the docs.")] = False,
    distil: Annotated[
        bool, typer.Option("--distil", help="Train one more that the seeds teach: see the docs.")
    ] = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Retrain the best design on train+val, test it once, and write the adapter file.

    Example: petlas retrain runs/demo --seeds 3
    """
    if trial is not None and design is not None:
        raise typer.BadParameter("give --trial or --design, not both")
    from petlas.search import api
    from petlas.search.run_folder import find_run

    more = {"baselines": baselines, "together": together, "distil": distil}
    result = api.retrain(find_run(run), trial=trial, design=design, seeds=seeds, **more)
    data = result.to_dict()
    if format is Format.JSON:
        print_json(data)
        return
    from petlas.search.reports.tables import outcome_table, show
    from petlas.search.reports.text import candidate_text, chosen_text, shown

    outcome = result.outcome
    show(outcome_table([*data.get("baselines", []), data], outcome.metric))
    if outcome.together:
        told = ", ".join(f"{name} {outcome.metric.format(value)}" for name, value in outcome.together.items())
        show(f"{len(outcome.seeds)} seeds together on test: {told}")
    told_of = chosen_text if (trial, design) == (None, None) else candidate_text  # else the user chose
    show(f"retrained {told_of(outcome.design, outcome.settings)}", f"wrote {shown(data['adapter'])}")
