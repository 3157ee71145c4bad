from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petlas.datasets import DataError
from petlas.petl.backbone import BackboneError
from petlas.petl.design import Design
from petlas.search import training as training_module
from petlas.search.config import RunConfig
from petlas.search.driver import search
from petlas.search.record import StudyRecord, design_of
from petlas.search.run_folder import RunError

Make = Callable[..., RunConfig]


def by_size(design: Design, epoch: int) -> float:
    return sum(p.size or 0 for p in design.placements) / 10 + epoch / 100


def trials(config: RunConfig) -> list[Any]:
    return StudyRecord.in_folder(config.folder, config.storage).trials()


def test_a_search_returns_its_best_trial_and_writes_its_design(make: Make, training: Any) -> None:
    training.curve = by_size
    config = make()
    best = search(config)
    assert best is not None
    assert best.values[0] == max(t.values[0] for t in trials(config) if t.values)
    assert Design.load(config.folder / "best" / "design.yaml") == design_of(best)
    assert (config.folder / "study.db").exists()
    assert (config.folder / "log.txt").read_text().count("trial ") == 9


def test_repeating_a_finished_search_trains_nothing_and_changes_no_trial(make: Make, training: Any) -> None:
    config = make(search={"trials": 4})
    best = search(config)
    before = trials(config)
    training.started.clear()
    again = search(config)
    assert again == best
    assert training.started == []
    assert trials(config) == before
    assert "raise search.trials" in (config.folder / "log.txt").read_text()


def test_more_trials_go_on_from_where_the_search_ended_and_repeat_no_design(make: Make, training: Any) -> None:
    search(make(search={"trials": 4}))
    before = trials(make())
    search(make(search={"trials": 7}))
    assert trials(make())[:4] == before
    assert len(training.started) == len(set(training.started)) == 7


def test_a_search_in_two_parts_tries_what_one_part_tries(make: Make, training: Any) -> None:
    training.curve = by_size
    search(make(name="whole", search={"trials": 6, "sampler": "tpe"}, train={"epochs": 9}))
    search(make(name="parts", search={"trials": 3, "sampler": "tpe"}, train={"epochs": 9}))
    search(make(name="parts", search={"trials": 6, "sampler": "tpe"}, train={"epochs": 9}))
    whole, parts = (
        [(t.user_attrs["key"], t.state, t.intermediate_values) for t in trials(make(name=name))]
        for name in ("whole", "parts")
    )
    assert whole == parts


def test_a_search_whose_trials_all_fail_has_no_best(make: Make, training: Any) -> None:
    training.curve = lambda design, epoch: float("nan")
    config = make(search={"trials": 2})
    assert search(config) is None
    assert not (config.folder / "best").exists()


def test_other_settings_are_refused_and_the_study_stays(make: Make, training: Any) -> None:
    search(make(search={"trials": 2}))
    before = trials(make())
    with pytest.raises(RunError, match=r"train\.lr"):
        search(make(search={"trials": 9}, train={"lr": 0.5}))
    assert trials(make()) == before


def test_an_interrupted_search_leaves_no_running_trial_and_goes_on_with_the_same_design(
    make: Make, training: Any
) -> None:
    def interrupt(design: Design, epoch: int) -> float:
        if len(training.started) == 2:
            raise KeyboardInterrupt
        return 0.5

    training.curve = interrupt
    config = make(search={"trials": 4})
    with pytest.raises(KeyboardInterrupt):
        search(config)
    assert [t.state.name for t in trials(config)] == ["COMPLETE", "FAIL", "WAITING"]
    training.curve = by_size
    search(config)
    assert [t.state.name for t in trials(config)].count("FAIL") == 1
    assert training.started[1] == training.started[2]
    assert len(training.started) == len(set(training.started)) + 1 == 5


@pytest.mark.parametrize(
    ("groups", "error"),
    [
        ({"task": {"name": "digist"}}, DataError),
        ({"backbone": {"name": "vit_mini_patch16_64", "checkpoint": "/nowhere.safetensors"}}, BackboneError),
        ({"backbone": {"name": "vit_mini_patch8_33"}}, BackboneError),
    ],
)
def test_what_is_wrong_with_task_or_backbone_is_found_before_the_folder_is_made(
    make: Make, groups: dict[str, Any], error: type[Exception]
) -> None:
    config = make(**groups)
    with pytest.raises(error):
        search(config)
    assert not Path(config.runs).exists()


def test_the_study_can_lie_in_another_database(make: Make, training: Any, tmp_path: Path) -> None:
    config = make(storage=f"sqlite:///{tmp_path / 'elsewhere.db'}", search={"trials": 2})
    search(config)
    assert not (config.folder / "study.db").exists()
    assert len(trials(config)) == 2


def test_two_runs_of_one_name_in_one_database_are_told_apart(make: Make, training: Any, tmp_path: Path) -> None:
    """And the study of the first is left as it is; with the same settings it goes on, wherever the folder lies."""
    shared = f"sqlite:///{tmp_path / 'shared.db'}"
    first = make(storage=shared, search={"trials": 2})
    search(first)
    with pytest.raises(RunError, match=r"(?s)the study .* holds a run with other settings.*train.lr: .*name=NAME"):
        search(make(storage=shared, search={"trials": 2}, runs=str(tmp_path / "b"), train={"lr": 0.5}))
    assert len(trials(first)) == 2
    search(make(storage=shared, search={"trials": 3}, runs=str(tmp_path / "c")))
    assert len(trials(first)) == 3


def test_a_search_never_opens_the_test_split(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """With real training: digits has 800 training, 200 selection and 797 test images."""
    opened: list[int] = []
    open_store = training_module.open_store

    def spy(split: Any, *args: Any, **options: Any) -> Any:
        opened.append(len(split))
        return open_store(split, *args, **options)

    monkeypatch.setattr(training_module, "open_store", spy)
    best = search(make(search={"trials": 2, "baselines": True}, train={"epochs": 1}))
    assert best is not None
    assert set(opened) == {800, 200}
