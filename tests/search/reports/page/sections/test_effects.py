import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from petlas.search.reports.page.run import RunView
from petlas.search.reports.page.sections.effects import FEWEST, effects, section

Trial = Callable[..., Any]


def made(*blocks: int, method: str = "lora") -> dict[str, Any]:
    return {"backbone": "b", "placements": [{"method": method, "block": block, "size": 4} for block in blocks]}


def test_an_effect_is_the_difference_of_means_with_welchs_error(view: Callable[..., RunView], trial: Trial) -> None:
    values = np.array([0.9, 0.8, 0.7, 0.4, 0.5, 0.3, 0.2])
    trials = [trial(n, 0.5, made(0, 3) if n < 3 else made(0)) for n in range(7)]
    (found,) = effects(view().config, trials, values, maximize=True)
    assert (found.name, found.having) == ("lora in block 3", 3)
    assert found.value == pytest.approx(0.8 - 0.35)
    assert found.error == pytest.approx(math.sqrt(0.01 / 3 + np.var([0.4, 0.5, 0.3, 0.2], ddof=1) / 4))
    assert effects(view().config, trials, values, maximize=False)[0].value == pytest.approx(-0.45)


def test_features_that_go_together_are_told_once_and_settings_are_halved(
    view: Callable[..., RunView], trial: Trial
) -> None:
    trials = [trial(n, 0.5, made(0, 1) if n % 2 else made(0, method="ssf"), settings={"lr": n + 1.0}) for n in range(8)]
    found = effects(view().config, trials, np.arange(8.0), maximize=True)
    assert [one.name for one in found] == ["lora", "ssf", "lr above 4.5"]
    assert [one.value for one in found] == pytest.approx([1.0, -1.0, 4.0])


def test_all_trials_count_at_the_last_epoch_that_all_reached_and_only_against_their_like(
    view: Callable[..., RunView], trial: Trial
) -> None:
    """A fold that is easier than another does not help what was tried on it."""
    trials = [trial(n, None if n % 3 else 0.9, made(0) if n % 2 else made(1), fold=n // 10, folds=2) for n in range(20)]
    for one in trials:
        one.intermediate_values[1] = 0.5 + 0.2 * one.user_attrs["fold"] + 0.1 * (one.number % 2)
    del trials[4].intermediate_values[2]
    told = section(view(trials=trials))
    assert "over 20 trials, by their values after the first epoch, the last one that all of them reached" in told
    numbers = re.search(r'"x":\[(.*?),(.*?)\].*?"array":\[(.*?),', told)
    assert numbers is not None
    assert [float(number) for number in numbers.groups()] == pytest.approx([-10, 10, 0])
    assert section(view(trials=trials[: FEWEST - 1])) == ""


def test_scores_are_told_where_they_are_more(view: Callable[..., RunView], trial: Trial) -> None:
    scores = [trial(n, n / 10, made(0) if n % 2 else made(1), "score") for n in range(9)]
    told = section(view(trials=[*scores, trial(9, 0.9, made(0))]))
    assert "over 9 scores with the supernet's weights" in told.replace("&#x27;", "'")
