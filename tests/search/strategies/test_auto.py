import itertools
import logging
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from study_cases import tried

from petlas.petl import Design
from petlas.search.config import RunConfig
from petlas.search.driver import search
from petlas.search.plan import plan
from petlas.search.strategies.auto import _Pipeline
from petlas.search.strategies.base import Search
from petlas.search.strategies.expected import expected
from petlas.search.strategies.recipes import portfolio
from petlas.search.strategies.variation import alike
from petlas.search.study import (
    HALVING,
    PORTFOLIO,
    VARIED,
    Ending,
    Entry,
    StudyRecord,
    candidate_of,
    course,
    result_of,
)
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

Make = Callable[..., RunConfig]
SPACE = {
    "methods": {
        "lora": {"blocks": "all", "sizes": [0, 1, 2, 4]},
        "adapter": {"blocks": "all", "sizes": [0, 2, 4]},
        "ssf": {"blocks": "backbone"},
    }
}
OPTIONS: dict[str, Any] = {
    "strategy": "auto",
    "space": SPACE,
    "budget": {"params": 12_000},
    "train": {"epochs": 9, "batch_size": 200, "lr": 1e-3},
    "search": {"cost": 6},
}


def by_size(design: Design, epoch: int) -> float:
    """More adapters are better, and nothing else matters."""
    return 0.4 + epoch / 100 + sum(p.size or 0 for p in design.by_method.get("adapter", ())) / 100


def test_the_best_go_on_for_more_epochs_on_other_folds_within_the_cost(make: Make, training: Any) -> None:
    training.curve = by_size
    config = make(**OPTIONS)
    best = search(config)
    assert best is not None
    assert set(candidate_of(best).design.by_method) == {"adapter"}
    record = StudyRecord.read(config.folder)
    trials = record.trials()
    assert 0.95 * 6 < sum(map(record.cost, trials)) <= 6 + 1e-9
    assert {t.user_attrs["stage"] for t in trials} == {PORTFOLIO, VARIED, HALVING}
    views = {(t.user_attrs["of_epochs"], t.user_attrs["fold"]) for t in trials}
    assert views == {(3, 0), (9, 1)}
    opening = [str(candidate_of(t).design) for t in trials if t.user_attrs["stage"] == PORTFOLIO]
    assert opening[0] == "linear"
    assert opening.count("linear") == 1  # ssf is too large for the budget, and not tried as something else
    short = {t.user_attrs["key"] for t in trials if t.user_attrs["of_epochs"] == 3}
    whole = [t for t in trials if t.user_attrs["of_epochs"] == 9]
    assert {t.user_attrs["key"] for t in whole} < short
    assert [t.state.name for t in trials if t not in whole] == ["PRUNED"] * (len(trials) - len(whole))
    assert {t.state.name for t in whole} == {"COMPLETE"}
    assert best in whole
    bench_lr = config.train.lr
    assert {bench_lr / 10 <= t.user_attrs["settings"]["lr"] <= bench_lr * 10 for t in trials} == {True}


def test_what_other_tasks_say_of_each_candidate_is_in_the_study(make: Make, training: Any) -> None:
    training.curve = by_size
    config = make(**OPTIONS)
    search(config)
    for trial in StudyRecord.read(config.folder).trials():
        candidate = candidate_of(trial)
        lr = dict(candidate.settings)["lr"] / config.train.lr
        said = expected(candidate.design.by_method, lr, config.backbone.name)
        assert said is not None
        assert trial.user_attrs["expected"] == [*said]
    space = Workbench(config).space
    strong = next(recipe for recipe in portfolio(space, config.backbone.name) if recipe.suits(space))
    _, first, *_ = StudyRecord.read(config.folder).trials()
    assert candidate_of(first).design.by_method.keys() == strong.methods


def test_wherever_it_is_cut_off_it_ends_as_if_it_had_not_been(make: Make, training: Any) -> None:
    training.curve = by_size
    whole, cut = make(name="whole", **OPTIONS), make(name="cut", **OPTIONS)
    search(whole)
    expected = tried(whole)
    for place in (2, 7, len(expected) - 5, len(expected) - 1):

        def interrupt(design: Design, epoch: int, place: int = place) -> float:
            if len(tried(cut)) == place + 1:
                raise KeyboardInterrupt
            return by_size(design, epoch)

        training.curve = interrupt
        with pytest.raises(KeyboardInterrupt):
            search(cut)
    training.curve = by_size
    search(cut)
    assert tried(cut) == expected
    search(cut)
    assert tried(cut) == expected


def test_what_is_usual_is_the_same_where_an_anchor_failed_and_the_search_was_cut_off(make: Make, training: Any) -> None:
    """The rest are held against the anchors alone, although one of the rest has come to its end by then."""
    given: list[tuple[int, list[float]]] = []
    stage, failing = _Pipeline._stage, list[str]()

    def noted(self: Any, name: str, rung: Any, candidates: Any, usual: Any) -> Any:
        given.append((len(usual), list(usual)))
        return stage(self, name, rung, candidates, usual)

    def curve(design: Design, epoch: int) -> float:
        done = len(tried(config))
        if done == 6 and not failing:
            failing.append("cut")
            raise KeyboardInterrupt
        return math.nan if done == 2 else by_size(design, epoch)

    training.curve, config = curve, make(**OPTIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Pipeline, "_stage", noted)
        with pytest.raises(KeyboardInterrupt):
            search(config)
        search(config)
    assert [count for count, _ in given[:4]] == [0, 3, 0, 3]


def test_those_that_are_trained_whole_are_not_alike(make: Make, training: Any) -> None:
    training.curve = by_size
    config = make(**OPTIONS | {"space": SPACE | {"settings": {"lr": [1e-3], "hflip": [0], "shift": [0]}}})
    search(config)
    whole = [t for t in StudyRecord.read(config.folder).trials() if t.user_attrs["of_epochs"] == 9]
    found = [candidate_of(trial) for trial in whole]
    assert sum("adapter" in candidate.design.by_method for candidate in found) >= 2
    assert max(by_size(candidate.design, 9) for candidate in found) == pytest.approx(0.73)  # the most there is
    assert not any(alike(one, other, ()) for one, other in itertools.combinations(found, 2))


def test_it_can_say_that_nothing_helps(make: Make, training: Any) -> None:
    training.curve = lambda design, epoch: 0.6 if not design.placements else 0.54
    best = search(make(**OPTIONS))
    assert best is not None
    assert candidate_of(best).design == Design((), candidate_of(best).design.backbone)


def test_what_diverges_is_stopped_at_once_and_never_goes_on(make: Make, training: Any) -> None:
    def loss_of(design: Design) -> float:
        return 9.0 if "adapter" in design.by_method else 1.0

    training.curve = by_size
    original = type(training).__call__

    def opened(self: Any, bench: Any, proposal: Any) -> Any:
        run = original(self, bench, proposal)
        self.loss = loss_of(proposal.entry.candidate.design)
        return run

    type(training).__call__ = opened
    try:
        config = make(**OPTIONS | {"train": {"epochs": 18, "batch_size": 200}})
        best = search(config)
    finally:
        type(training).__call__ = original
    assert best is not None
    assert "adapter" not in candidate_of(best).design.by_method
    trials = StudyRecord.read(config.folder).trials()
    stopped = [t for t in trials if result_of(t) is None]
    assert {t.user_attrs["epochs"] for t in stopped} == {1}
    assert all("adapter" in candidate_of(t).design.by_method for t in stopped)


def test_a_space_of_one_method_is_searched_in_its_sizes_and_its_rate(make: Make, training: Any) -> None:
    training.curve = lambda design, epoch: 0.5 + len(design.placements) / 100
    narrow = {"methods": {"hydra": {"blocks": "all", "sizes": [0, 2]}}, "settings": {"lr": [1e-3, 3e-3]}}
    config = make(**OPTIONS | {"space": narrow})
    best = search(config)
    assert best is not None
    candidates = [candidate_of(t) for t in StudyRecord.read(config.folder).trials()]
    assert {name for candidate in candidates for name in candidate.design.by_method} == {"hydra"}
    assert len({candidate.design for candidate in candidates}) > 2
    assert {dict(candidate.settings)["lr"] for candidate in candidates} == {1e-3, 3e-3}
    assert set(candidate_of(best).design.by_method) == {"hydra"}


def test_images_are_mirrored_and_moved_where_that_helps_and_nobody_said_anything_of_them(
    make: Make, training: Any
) -> None:
    training.curve = lambda design, epoch: 0.5
    tried = {}
    for name, groups in {
        "open": {},
        "named": {"space": {**SPACE, "settings": {"hflip": [0.2], "shift": [0]}}},
        "augmented": {"train": {**OPTIONS["train"], "augment": "flip"}},
        "plain": {"train": {**OPTIONS["train"], "augment": "none"}},
    }.items():
        config = make(name=name, **OPTIONS | groups)
        search(config)
        trials = StudyRecord.read(config.folder).trials()
        own = [dict(candidate_of(trial).settings) for trial in trials]
        tried[name] = {(settings.get("hflip"), settings.get("shift")) for settings in own}
    assert tried["open"] >= {(0, 0), (0, 0.08), (0.5, 0.08)}
    assert tried["named"] == {(0.2, 0)}
    assert tried["augmented"] == tried["plain"] == {(None, None)}


@pytest.mark.parametrize("cost", [2.0, 6.0])
def test_it_costs_what_was_planned(make: Make, training: Any, monkeypatch: pytest.MonkeyPatch, cost: float) -> None:
    training.curve = by_size
    monkeypatch.setattr(sys.modules["petlas.search.plan"], "measure", lambda bench: (0.01, 0.03, 10**9, 3072))
    config = make(**OPTIONS | {"search": {"cost": cost}})
    planned = [stage for stage in plan(config).stages if stage.stage != "retrain"]
    search(config)
    record = StudyRecord.read(config.folder)
    assert sum(stage.trials for stage in planned) == len(record.trials())
    assert sum(stage.R for stage in planned) == pytest.approx(sum(map(record.cost, record.trials())), rel=0.02)


def test_when_all_folds_were_used_they_are_dealt_anew(make: Make, training: Any) -> None:
    training.curve = by_size
    config = make(**OPTIONS | {"search": {"cost": 13}}, protocol={"folds": 2})
    search(config)
    trials = StudyRecord.read(config.folder).trials()
    places = {(t.user_attrs["of_epochs"], t.user_attrs["fold"], t.user_attrs.get("repeat", 0)) for t in trials}
    assert places == {(3, 0, 0), (9, 1, 0), (9, 0, 1)}
    seeds = {t.user_attrs.get("repeat", 0): t.user_attrs["seed"] for t in trials}
    assert seeds == {0: 0, 1: 1}
    started = len(training.started)
    search(config)
    assert len(training.started) == started


def test_folds_are_as_many_as_every_class_has_images(make: Make, training: Any, caplog: Any) -> None:
    training.curve = by_size
    config = make(**OPTIONS | {"protocol": {"folds": 200}})
    with caplog.at_level("WARNING"):
        search(config)
    (line,) = [line for line in caplog.messages if "folds" in line]
    folds = {t.user_attrs["folds"] for t in StudyRecord.read(config.folder).trials()}
    assert len(folds) == 1
    assert f"{folds.pop()} folds, not 200" in line


def test_a_search_that_is_over_says_what_it_needs_to_go_on(
    make: Make, training: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("petlas"), "propagate", True)
    config = make(**OPTIONS | {"search": {"cost": 1}, "train": {"epochs": 1}})
    search(config)
    with caplog.at_level(logging.INFO, "petlas"):
        search(config)
    assert "has all its trials; raise search.cost to go on" in caplog.text


def test_what_is_told_and_kept_of_a_stage_is_of_a_candidate_that_can_be_chosen(
    bench: Callable[..., Workbench], lora: Callable[..., Design], tmp_path: Path
) -> None:
    """Not of one that was left behind, whatever is believed of it."""
    record = StudyRecord.create(tmp_path)
    for stage, epochs, fold, values in ((PORTFOLIO, 1, 0, (0.9, 0.6, 0.5)), (HALVING, 9, 1, (None, 0.7, 0.6))):
        for rank, value in enumerate(values, 1):
            if value is not None:
                entry = Entry(Candidate(lora(b0=rank)), Fidelity(epochs, 0, fold, 5), stage, rank)
                number = record.begin(entry, {}, {}, {})
                record.report(number, epochs, value)
                record.finish(number, Ending(epochs, value, 0.1, more={"images": 200}))
    beliefs, best = record.beliefs(), record.best()
    assert best is not None and max(beliefs.keys, key=lambda key: beliefs.of(key)[0]) == lora(b0=1).key
    told = _Pipeline(Search(bench(**OPTIONS), record))._told("halving")
    assert f"is believed of the best, {candidate_of(best)};" in told
    assert course(record)[-1].best == candidate_of(best)
