from collections.abc import Callable

import pytest

from petlas.search.reports.sections import agreement
from petlas.search.reports.sections.agreement import scatter
from petlas.search.reports.study_report import StudyReport
from petlas.search.selection import agreement_of


@pytest.mark.parametrize("chance", [True, False])
def test_the_evidence_for_the_scores_is_shown_and_a_rank_no_better_than_chance_is_named(
    printed: Callable[..., list[str]], chance: bool
) -> None:
    values = [0.5, 0.7, 0.4, 0.6] if chance else [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    found = agreement_of((i, i / 10, value) for i, value in enumerate(values))
    shown = " ".join(printed(*agreement.section(StudyReport([], None, [], agreement=found))))
    assert f"Kendall's tau {0 if chance else 1:.2f}" in shown
    assert ("no better than chance" in shown) == chance
    assert "score %" in shown


def test_without_a_check_nothing_is_said() -> None:
    assert list(agreement.section(StudyReport([], None, []))) == []


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
