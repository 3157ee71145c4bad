import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optuna.trial import TrialState

from petlas.petl.design import Design
from petlas.search.config import RunConfig
from petlas.search.inline_runner import opened
from petlas.search.record import design_of
from petlas.search.report import as_json
from petlas.search.session import Session

Make = Callable[..., RunConfig]


def search(config: RunConfig) -> Session:
    session = Session(config)
    config.folder.mkdir(parents=True, exist_ok=True)
    session.record.recover()
    session.start()
    with opened(config) as runner:
        runner.run(session)
    return session


def states(session: Session) -> list[str]:
    return [trial.state.name for trial in session.record.trials()]


def untimed(session: Session) -> dict[str, Any]:
    """The study without the clock."""
    data = as_json(session.record)
    for row in data["trials"]:
        row.pop("seconds")
    return {"trials": data["trials"], "best": data["best"]["number"], "pareto": [r["number"] for r in data["pareto"]]}


def by_size(design: Design, epoch: int) -> float:
    return sum(p.size or 0 for p in design.placements) / 10 + epoch / 100


def test_trials_that_fall_behind_are_pruned_and_the_others_complete(make: Make, training: Any) -> None:
    training.curve = by_size
    session = search(make(train={"epochs": 9}))
    assert set(states(session)) == {"COMPLETE", "PRUNED"}
    for trial in session.record.trials():
        epochs = list(trial.intermediate_values)
        assert epochs == list(range(1, trial.user_attrs["epochs"] + 1))
        assert (trial.state == TrialState.COMPLETE) == (len(epochs) == 9)
        assert trial.state == TrialState.COMPLETE or len(epochs) in session.halving.rungs
    best = session.record.best()
    assert best is not None
    assert sum(p.size or 0 for p in design_of(best).placements) == 4
    assert len(training.started) == len(set(training.started)) == 9


def test_nan_fails_and_the_search_goes_on(make: Make, training: Any) -> None:
    training.curve = lambda design, epoch: math.nan if design.placements and epoch == 2 else 0.5
    session = search(make())
    assert sorted(states(session)) == ["COMPLETE"] + ["FAIL"] * 8
    assert len(training.started) == 9


def test_a_crash_fails_with_its_reason_and_the_search_goes_on(make: Make, training: Any) -> None:
    def crash(design: Design, epoch: int) -> float:
        if epoch == 2 and design.placements:
            raise MemoryError("too large")
        return 0.5

    training.curve = crash
    session = search(make())
    failed = session.record.trials(TrialState.FAIL)
    assert len(failed) == 8
    for trial in failed:
        assert trial.user_attrs["error"] == "MemoryError: too large"
        assert trial.intermediate_values == {1: 0.5}
        assert trial.user_attrs["epochs"] == 1


def test_a_crash_while_the_model_is_built_fails_too(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("no such layer")

    monkeypatch.setattr("petlas.search.inline_runner.open_work", refuse)
    session = search(make(search={"trials": 2}))
    assert states(session) == ["FAIL", "FAIL"]
    assert session.record.trials()[0].user_attrs["error"] == "ValueError: no such layer"


def test_an_interrupted_search_goes_on_where_it_stopped_and_ends_as_if_it_had_not_been(
    make: Make, training: Any
) -> None:
    training.curve = by_size
    whole = untimed(search(make(name="whole", train={"epochs": 9})))

    def interrupt(design: Design, epoch: int) -> float:
        if len(training.started) == 4 and epoch == 2:
            raise KeyboardInterrupt
        return by_size(design, epoch)

    config = make(name="cut", train={"epochs": 9})
    training.started.clear()
    training.curve = interrupt
    with pytest.raises(KeyboardInterrupt):
        search(config)
    before = [t for t in Session(config).record.trials() if t.state.is_finished()]
    assert len(before) == 3

    training.curve = by_size
    session = search(config)
    assert session.record.trials()[:3] == before
    assert "RUNNING" not in states(session)
    assert states(session)[3] == "FAIL"
    assert training.started[3] == training.started[4]
    assert len(training.started) == len(set(training.started)) + 1 == 10
    cut = untimed(session)
    finished = [row for row in cut["trials"] if row["number"] != 3]
    assert {row["key"]: row["val"] for row in finished}.keys() == {row["key"] for row in whole["trials"]}
    best = session.record.best()
    assert best is not None
    assert best.values[0] == max(row["val"] for row in whole["trials"] if row["state"] == "COMPLETE")


def test_the_threads_are_those_of_the_configuration_and_afterwards_those_of_before(make: Make, training: Any) -> None:
    seen = []
    training.curve = lambda design, epoch: seen.append(torch.get_num_threads()) or 0.5
    before = torch.get_num_threads()
    search(make(resources={"cpus": 2}, search={"trials": 1}))
    assert seen == [2, 2]
    assert torch.get_num_threads() == before


def test_the_same_seed_gives_the_same_search_twice_and_another_seed_another(make: Make) -> None:
    options = {"search": {"trials": 2, "sampler": "tpe"}, "train": {"epochs": 1}}
    first, again = (untimed(search(make(name=name, **options))) for name in ("a", "b"))
    assert first == again
    other = untimed(search(make(name="c", seed=1, **options)))
    assert [row["val"] for row in other["trials"]] != [row["val"] for row in first["trials"]]
