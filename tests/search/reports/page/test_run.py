from collections.abc import Callable
from typing import Any

import pytest

from petlas import search as room
from petlas.search.config import RunConfig
from petlas.search.reports.page.run import RunView


def test_all_that_a_run_wrote_down_is_read(make: Callable[..., RunConfig], training: Any) -> None:
    config = make(search={"trials": 2})
    room.search([config])
    (config.folder / "sensitivity.json").write_text("{damaged")
    (config.folder / "baselines.json").write_text("[]")
    view = RunView.of(config)
    assert len(view.trials) == 2
    assert (view.retrained, view.sensitivity, view.baselines) == (None, None, [])
    assert view.versions.startswith("petlas ")
    assert len(view.commands) == 1
    assert view.about["images"]["val"] == view.report.images


def test_the_chosen_design_leads_and_each_candidate_counts_once(view: Callable[..., RunView], trial: Any) -> None:
    run = view((0.9, 0.97, None))
    assert [row.number for row in run.whole] == [2, 0, 1]
    assert [row.number for row in run.leaders] == [2, 0, 1]
    assert [row.number for row in run.known] == [0]


def test_a_trial_costs_its_passes_over_images_and_a_score_nothing(view: Callable[..., RunView], trial: Any) -> None:
    """A pass in training is three in measuring; a fold has a part of train and val to measure on."""
    made: dict[str, Any] = {"backbone": "b", "placements": []}
    trials = [trial(0, 0.9, made), trial(1, None, made, epochs=1), trial(2, 0.5, made, "score")]
    fold = trial(3, 0.9, made, "folds", fold=0, folds=2, images=500)
    cut = trial(4, None, made, interrupted=True)
    costs = [cost for _, cost in view(trials=[*trials, fold, cut]).costs]
    assert costs == pytest.approx([1, 0.5, 0, (3 * 500 + 500) / (3 * 800 + 200)])
