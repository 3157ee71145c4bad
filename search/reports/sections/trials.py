"""Every trial of a study."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType

from petlas.search.reports.study_report import StudyReport
from petlas.search.reports.tables import drawn
from petlas.search.reports.text import candidate_text, measured, unit
from petlas.search.study import TrialRow


def section(report: StudyReport) -> Iterator[RenderableType]:
    """The table of trials, with the front marked."""
    front = {row.number for row in report.pareto}
    folds, repeats = any(row.fold is not None for row in report.trials), any(row.repeat for row in report.trials)
    columns = ["trial#", "state", "stage", *(["fold#"] if folds else []), *(["repeat#"] if repeats else [])]
    columns += [f"val{unit(report.metric)}#", "params#", "epochs#", "seconds#", "design"]

    def cells(row: TrialRow) -> list[str]:
        number = str(row.number) + ("*" if row.number in front else "")
        fold = [] if not folds else ["" if row.fold is None else str(row.fold + 1)]
        fold += [] if not repeats else ["" if row.repeat is None else str(row.repeat)]
        told = [measured(report.metric, row.val), f"{row.params:,}", str(row.epochs), f"{row.seconds:.0f}"]
        return [number, row.state, row.stage, *fold, *told, candidate_text(row.design, row.settings)]

    yield drawn(columns, [cells(row) for row in report.trials])
    if report.left_out:
        yield f"{report.left_out:,} further scores, none of them better: petlas study RUN --format csv lists all trials"
    if repeats:
        yield "repeat: how often the images had been dealt anew to the folds, with another seed"
    by = "" if report.believed is None else ", by what is believed of each candidate, at its longest training"
    if report.believed is not None and any(row.state == "PRUNED" for row in report.trials):
        yield "PRUNED: a training of fewer epochs than a whole one has, or one that was stopped early"
    yield f"* on the Pareto front of {report.metric.name} and parameters{by}"
