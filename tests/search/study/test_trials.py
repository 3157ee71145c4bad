import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from petlas.petl.design import Design, Placement
from petlas.search.study import (
    FOLDS,
    SCORE,
    Entry,
    candidate_of,
    design_of,
    entry_of,
    is_interrupted,
    is_trained,
    row_of,
)
from petlas.search.study.trials import DRAWN, complete, value_of
from petlas.search.training.fidelity import Fidelity
from petlas.spaces import Candidate

DESIGN = Design.of([Placement("lora", 0, 2)], "b")


def entry(stage: str = "search", lr: float | None = None, **fidelity: int) -> Entry:
    candidate = Candidate(DESIGN, () if lr is None else (("lr", lr),))
    return Entry(candidate, Fidelity(3, 4, **fidelity), stage, 512)


@given(st.floats(1e-6, 1.0), st.integers(0, 4), st.sampled_from(["search", "baseline", SCORE, FOLDS]))
def test_an_entry_is_what_its_attributes_say(lr: float, fold: int, stage: str) -> None:
    made = entry(stage, lr, fold=fold, folds=5)
    trial = create_trial(state=TrialState.RUNNING, user_attrs=made.attributes())
    assert entry_of(trial) == made
    assert (candidate_of(trial), design_of(trial)) == (made.candidate, DESIGN)


def test_what_may_be_tried_once_is_a_candidate_at_a_fidelity_trained_or_scored() -> None:
    others = [entry(lr=1e-3), entry(fold=0, folds=2), entry(SCORE)]
    assert len({each.identity for each in (entry(), *others)}) == 4
    assert entry("baseline").identity == entry("search").identity


def test_scores_and_folds_are_not_trained_on_train() -> None:
    trained = {
        stage: is_trained(create_trial(state=TrialState.RUNNING, user_attrs={"stage": stage}))
        for stage in (*DRAWN, "baseline", SCORE, FOLDS)
    }
    assert [stage for stage, yes in trained.items() if not yes] == [SCORE, FOLDS]


def test_the_value_of_a_trial_that_was_cut_off_is_its_last_one() -> None:
    cut = create_trial(state=TrialState.FAIL, intermediate_values={1: 0.2, 3: 0.1}, user_attrs={"interrupted": True})
    assert value_of(cut) == 0.1
    assert is_interrupted(cut)
    assert value_of(create_trial(state=TrialState.FAIL)) is None
    assert complete([cut]) == []


def test_a_row_of_a_trial_without_attributes_is_empty() -> None:
    row = row_of(create_trial(state=TrialState.FAIL))
    assert (row.design, row.key, row.val, row.epochs, row.fold) == ({}, "", None, 0, None)


def test_an_entry_needs_all_of_its_attributes() -> None:
    with pytest.raises(KeyError):
        Entry.of_attributes({"design": DESIGN.to_dict()})
