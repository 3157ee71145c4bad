import warnings
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from petlas.petl import Design, Placement
from petlas.search.config import RunConfig
from petlas.search.driver import search
from petlas.search.reports.readable import readable_studies, readable_study
from petlas.search.study import BASELINE, Entry, StudyRecord, candidate_of
from petlas.search.training import Fidelity
from petlas.spaces import Candidate

METHODS = {
    "lora": {"blocks": "all", "sizes": [0, 2, 8]},
    "adapter": {"blocks": [0, 3], "sizes": [0, 4]},
    "ssf": {"blocks": "backbone"},
}
SPACE = {"methods": METHODS, "settings": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}}}


def record_of(config: RunConfig) -> StudyRecord:
    return StudyRecord.read(config.folder)


@pytest.fixture
def searched(make: Callable[..., RunConfig], training: Any) -> Callable[..., RunConfig]:
    """The study of a search whose trials are known at once; large designs are better, and one of them diverges."""

    def searched(**groups: Any) -> RunConfig:
        training.curve = lambda design, epoch: (
            float("nan") if str(design) == "ssf" else sum(p.size or 1 for p in design.placements) / 100 + epoch / 1000
        )
        given: dict[str, Any] = {"space": SPACE, "budget": {"params": 40_000}, "train": {"epochs": 9}}
        config = make(**given | {"search": {"trials": 24, "sampler": "random", "baselines": True}} | groups)
        search(config)
        return config

    return searched


def test_parameters_have_the_names_and_sizes_of_the_design_also_those_of_known_designs(
    searched: Callable[..., RunConfig],
) -> None:
    config = searched()
    study, originals = readable_study(config), record_of(config).trials()
    assert [t.number for t in study.trials] == [t.number for t in originals]
    assert {t.user_attrs["stage"] for t in study.trials} >= {BASELINE, "search"}
    for trial, original in zip(study.trials, originals, strict=True):
        candidate = candidate_of(original)
        sizes = {
            p.method if p.block is None else f"{p.method}@{p.block}": p.size or 1 for p in candidate.design.placements
        }
        lr = {"lr": dict(candidate.settings).get("lr", config.train.lr)}
        assert {name: value for name, value in trial.params.items() if value} == sizes | lr
        assert trial.user_attrs["design"] == str(candidate)
        same = ("state", "intermediate_values", "datetime_start", "datetime_complete", "values")
        assert [getattr(trial, name) for name in same] == [getattr(original, name) for name in same]
    kinds = study.trials[0].distributions
    assert kinds["lora@3"] == IntDistribution(0, max(t.params["lora@3"] for t in study.trials))
    assert isinstance(kinds["lr"], FloatDistribution)
    assert kinds["lr"].log
    assert {t.state for t in study.trials} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}


def test_all_of_optunas_plots_and_importances_work_without_a_warning(searched: Callable[..., RunConfig]) -> None:
    study = readable_study(searched(search={"trials": 20, "sampler": "random", "grace_epochs": 9}))
    plots = optuna.visualization
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for plot in (
            plots.plot_contour, plots.plot_edf, plots.plot_intermediate_values, plots.plot_optimization_history,
            plots.plot_parallel_coordinate, plots.plot_param_importances, plots.plot_rank, plots.plot_slice,
            plots.plot_timeline,
        ):  # fmt: skip
            few = {"params": ["lora@0", "lr"]} if plot in (plots.plot_contour, plots.plot_rank) else {}
            assert plot(study, **few).data, plot.__name__
    assert "lora@0" in optuna.importance.get_param_importances(study)


def test_a_front_of_two_objectives_has_their_names(searched: Callable[..., RunConfig]) -> None:
    config = searched(search={"trials": 12, "objectives": ["accuracy", "params"]})
    study = readable_study(config)
    assert study.metric_names == ["accuracy", "params"]
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert optuna.visualization.plot_pareto_front(study).data
    assert {t.number for t in record_of(config).pareto()} <= {t.user_attrs["number"] for t in study.best_trials}


def test_folds_are_a_study_of_their_own_so_that_the_best_is_of_trainings(searched: Callable[..., RunConfig]) -> None:
    config = searched(protocol={"folds": 3, "finalists": 2})
    trained, folds = readable_studies(config, InMemoryStorage())
    numbers = [trial.number for trial in record_of(config).trials()]
    assert folds.study_name == f"{trained.study_name}: folds"
    assert len(folds.trials) == 6
    assert {t.user_attrs["stage"] for t in folds.trials} == {"folds"}
    assert [t.user_attrs["number"] for t in (*trained.trials, *folds.trials)] == numbers


def test_blocks_beyond_ten_are_in_order_as_text(make: Callable[..., RunConfig]) -> None:
    config = make()
    config.folder.mkdir(parents=True)
    design = Design.of([Placement("lora", block, 4) for block in range(12)])
    StudyRecord.create(config.folder).begin(Entry(Candidate(design), Fidelity(5, 0), BASELINE, 0), {}, {}, {})
    names = list(readable_study(config).trials[0].params)
    assert names == sorted(names)
    assert names == [f"lora@{block:02}" for block in range(12)]
