from __future__ import annotations

import numpy as np
import pytest
from sampler_cases import TUNED, new_study, run

from petlas.search.samplers.random import Random
from petlas.spaces import Budget


def test_learning_rates_are_drawn_log_uniformly():
    drawn = run(new_study(Random(TUNED, Budget(), 0)), TUNED, Budget(), 200)
    rates = np.log([dict(candidate.settings)["lr"] for candidate in drawn])
    low, high = np.log(3e-4), np.log(2e-2)
    assert np.histogram(rates, bins=4, range=(low, high))[0] / 200 == pytest.approx([0.25] * 4, abs=0.1)


def test_what_came_of_earlier_trials_does_not_matter():
    found = []
    for sign in (1, -1):
        study = new_study(Random(TUNED, Budget(), 0))
        found.append([])
        for index in range(20):
            trial = study.ask()
            found[-1].append(TUNED.suggest(trial, Budget()))
            study.tell(trial, [sign * index, 0])
    assert found[0] == found[1]
