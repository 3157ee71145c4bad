from collections.abc import Callable
from pathlib import Path

import pytest

from petlas.petl.design import Design
from petlas.search.record import RANKING, SCORE, StudyRecord
from petlas.search.report import as_json
from petlas.search.tables import scatter, study_table


def test_the_evidence_for_the_scores_is_shown_and_a_rank_no_better_than_chance_is_named(
    tmp_path: Path, lora: Callable[..., Design], capsys: pytest.CaptureFixture[str]
) -> None:
    record = StudyRecord.in_folder(tmp_path)
    vals = [0.5, 0.7, 0.4, 0.6]
    for i, val in enumerate(vals):
        design = lora(b0=i + 1)
        trial = record.begin(SCORE)
        record.fill(trial, design, 1, 0, {"x": (i, 9)})
        record.finish(trial.number, 0, i / 10, True, 0.1)
        record.enqueue(design, 1, RANKING, 0, {})
        record.finish(record.study.ask().number, 1, val, True, 0.1)
    data = as_json(record)
    assert data["best"]["val"] == 0.7
    assert data["ranking"]["tau"] == pytest.approx(0.0)
    study_table(data, None)
    shown = capsys.readouterr().out
    assert "Kendall's tau 0.00" in shown
    assert "no better than chance" in shown
    assert "score %" in shown


def test_a_scatter_plot_has_a_mark_for_every_point() -> None:
    plot = scatter([(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (1.0, 1.0)], width=11, height=3)
    assert plot.splitlines() == [
        " 100.0 |          2",
        "       |     o",
        "   0.0 |o",
        "       +-----------",
        " val %  0.0score %100.0",
    ]
    assert scatter([(0.2, 0.3)], width=20, height=1).startswith("  30.0 |         o")
