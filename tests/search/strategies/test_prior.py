import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petlas.errors import UserError
from petlas.petl import Design
from petlas.search.config import ConfigError, RunConfig, load_config
from petlas.search.driver import search
from petlas.search.strategies.prior import prior
from petlas.search.strategies.recipes import Recipe
from petlas.search.study import StudyRecord, candidate_of

Make = Callable[..., RunConfig]
METHODS = {"lora": {"blocks": "all", "sizes": [0, 2, 4]}, "adapter": {"blocks": "all", "sizes": [0, 2, 4]}}
RATES = {"lr": {"low": 1e-4, "high": 1e-2, "log": True}}
SPACE = {"methods": METHODS, "settings": RATES}
OPTIONS: dict[str, Any] = {"strategy": "auto", "budget": {"params": 12_288}, "train": {"epochs": 3, "lr": 1e-3}}


def won(make: Make, training: Any, name: str, method: str, lr: tuple[float, float] | None = None) -> RunConfig:
    """A run in which more of a method is better."""
    training.curve = lambda design, epoch: 0.5 + sum(p.size or 0 for p in design.by_method.get(method, ())) / 100
    settings = {"lr": [1e-3 if lr is None else lr[1]], "hflip": [0.5], "shift": [0]}
    space = {"methods": {method: METHODS[method]}, "settings": settings}
    config = make(name=name, **OPTIONS | {"space": space, "train": {"epochs": 3, "lr": lr[0] if lr else 1e-3}})
    assert search(config) is not None
    return config


def designs(config: RunConfig) -> list[Design]:
    return [candidate_of(trial).design for trial in StudyRecord.read(config.folder).trials()]


def test_the_kind_that_won_most_often_comes_first_with_its_mean_rate(make: Make, training: Any) -> None:
    folder = won(make, training, "a", "adapter", (1e-3, 1e-3)).folder.parent
    won(make, training, "b", "adapter", (1e-3, 4e-3))
    won(make, training, "c", "lora", (5e-3, 1e-3))
    first, second = prior(folder, folder / "other")
    assert first.methods == {"adapter"}
    assert dict(first.settings)["lr"] == pytest.approx(2.0)  # the geometric mean of 1 and 4
    assert second.methods == {"lora"}
    assert dict(second.settings) == pytest.approx({"lr": 0.2, "hflip": 0.5, "shift": 0})
    assert dict(second.shares)["lora"] == pytest.approx(1.0)  # rank 4 at all blocks is the whole budget
    assert [recipe.methods for recipe in prior(folder, folder / "a")] == [{"adapter"}, {"lora"}]
    assert dict(prior(folder, folder / "a")[0].settings)["lr"] == pytest.approx(4.0)  # without the run itself


def test_a_search_begins_with_it_and_a_resumed_one_with_the_same(make: Make, training: Any, tmp_path: Path) -> None:
    folder = won(make, training, "a", "adapter").folder.parent
    config = make(name="new", **OPTIONS | {"space": SPACE, "search": {"cost": 4, "prior": str(folder)}})
    training.curve = lambda design, epoch: 0.5
    search(config)
    tried = designs(config)
    assert str(tried[0]) == "linear"
    assert list(tried[1].by_method) == ["adapter"]
    plain = make(name="plain", **OPTIONS | {"space": SPACE, "search": {"cost": 4}})
    search(plain)
    assert set(designs(plain)[1].by_method) == {"adapter", "lora"}
    won(make, training, "b", "lora")
    won(make, training, "c", "lora")
    kept = StudyRecord.read(config.folder).prior
    assert kept is not None
    assert [Recipe.from_dict(recipe).methods for recipe in kept] == [{"adapter"}]
    search(config)
    assert designs(config) == tried


def test_a_folder_without_finished_runs_is_refused_and_a_broken_run_left_out_with_a_line(
    make: Make, training: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match=r"search\.prior must name a folder of runs with finished trainings"):
        prior(tmp_path / "none", tmp_path)
    folder = won(make, training, "a", "adapter").folder.parent
    (folder / "old").mkdir()
    (folder / "old" / "config.yaml").write_text("nonsense: 1\n")
    with caplog.at_level(logging.WARNING):
        assert len(prior(folder, tmp_path)) == 1
    assert "old is left out" in caplog.text


def test_another_strategy_does_not_read_it_and_says_so() -> None:
    with pytest.raises(ConfigError, match=r"search\.prior .*strategy: auto"):
        load_config("demo", ["strategy=trials", "search.prior=runs"])
