from __future__ import annotations

import pytest
from optuna.distributions import IntDistribution
from optuna.samplers import TPESampler
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from sampler_cases import new_study, raw_study

from petlas.search.samplers.learning import LearningStudy


def test_stock_studies_refuse_pruned_trials_of_several_objectives():
    """Should this fail: Optuna has mended it, and `LearningStudy.direction` may go."""
    study = raw_study(TPESampler(seed=0))
    for value in range(12):
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED,
                params={"x": value % 4},
                distributions={"x": IntDistribution(0, 3)},
                intermediate_values={1: value % 4 / 4},
            )
        )
    with pytest.raises(RuntimeError, match="single direction"):
        study.ask().suggest_int("x", 0, 3)


def test_the_direction_is_that_of_the_first_objective():
    for first in ("maximize", "minimize"):
        study = LearningStudy([first, "minimize"])
        assert study.direction is StudyDirection[first.upper()] is study.directions[0]
    assert LearningStudy([StudyDirection.MINIMIZE]).directions == [StudyDirection.MINIMIZE]


@pytest.mark.parametrize("objectives", [1, 2])
def test_reported_values_are_those_of_their_trial(objectives: int):
    study = new_study(None, objectives)
    trials = [study.ask(), study.ask()]
    study.report(trials[1].number, 1, 0.25)
    study.report(trials[1].number, 2, 0.5)
    study.tell(trials[1], state=TrialState.PRUNED)
    assert [trial.intermediate_values for trial in study.trials] == [{}, {1: 0.25, 2: 0.5}]
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING, TrialState.PRUNED]


def test_studies_have_nothing_in_common():
    first, second = new_study(None), new_study(None)
    first.ask()
    assert (len(first.trials), len(second.trials)) == (1, 0)
