import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from petlas.search.objectives import Metric
from petlas.search.reports.page import contest
from petlas.search.reports.page.contest import Contender, Measured, contenders, error_of_difference, methods_of
from petlas.search.reports.page.run import key_of


def design(*methods: str) -> dict[str, Any]:
    return {"backbone": "b", "placements": [{"method": method, "block": 0, "size": 4} for method in methods]}


def outcome(mean: float, std: float, seeds: int, *methods: str) -> dict[str, Any]:
    return {"design": design(*methods), "settings": {}, "params": 10, "val": None, "test_mean": mean, "test_std": std,
            "seeds": [*range(seeds)]}  # fmt: skip


def said(key: str, wrong: list[int]) -> Any:
    return SimpleNamespace(about=SimpleNamespace(key=key, test="t"), images=wrong, wrong=np.array(wrong, float))


def run(**more: Any) -> Any:
    """A run without trials, whose designs were retrained."""
    usual = {"best": None, "retrained": None, "retrained_key": None, "known": [], "baselines": [], "predictions": [],
             "metric": Metric("accuracy", paired=True), "keys_of": lambda stage: set(),
             "report": SimpleNamespace(images=None, believed=None, of_candidate=lambda key: None)}  # fmt: skip
    return SimpleNamespace(**usual | more)


def test_a_design_is_called_by_its_methods_each_once() -> None:
    assert methods_of(design("lora", "vpt", "lora")) == "lora + vpt"
    assert methods_of(design()) == "linear"
    found = Contender("found", "k", design("lora"), {"lr": 0.01234}, 1, None, None)
    assert (found.name, found.label) == ("found", "found: lora, lr 0.012")


def test_known_designs_stand_by_what_they_came_to_on_test_the_best_first() -> None:
    known = [outcome(0.7, 0.0, 1, "vpt"), outcome(0.9, 0.0, 1, "lora"), outcome(0.9, 0.0, 1, "lora")]
    assert [one.name for one in contenders(run(baselines=known))] == ["lora", "vpt"]


def test_the_error_on_test_is_of_its_images_and_of_its_seeds() -> None:
    own = outcome(0.8, 0.03, 4, "lora")
    key = key_of(own)
    found = contest.tested(run(retrained=own, predictions=[said(key, [0] * 400)]), key)
    assert found is not None
    assert (found.value, found.seeds) == (0.8, 4)
    assert found.error == pytest.approx(math.hypot(math.sqrt(0.8 * 0.2 / 400), 0.03 / 2))
    assert contest.tested(run(), key) is None


def test_what_both_fail_on_does_not_count_in_the_error_of_a_difference() -> None:
    both = [Contender("baseline", key, design(), {}, 0, None, Measured(0.5, 0.3)) for key in ("a", "b")]
    of_images = error_of_difference(run(predictions=[said("a", [1, 0, 0, 0]), said("b", [1, 1, 0, 0])]), *both)
    assert of_images == pytest.approx(np.std([0, 1, 0, 0]) / 2)
    assert error_of_difference(run(), *both) == pytest.approx(math.hypot(0.3, 0.3))
