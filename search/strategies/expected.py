"""What candidates are worth on tasks and backbones that were recorded, before they are tried here. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

import numpy as np

from petlas.search.strategies.recipes import shipped


@dataclass(frozen=True)
class Recorded:
    """What was recorded on one backbone.

    Args:
        worths: For each set of methods its mean accuracy over tasks, in shares of images, at some factors of the run's
            learning rate; what is added to all of them does not matter.
        curve: What is lost by a rate ten times above the highest of them, or below the lowest.
    """

    worths: Mapping[frozenset[str], Mapping[float, float]]
    curve: float

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recorded:
        """Of plain data such as `{curve: 0.07, methods: [{methods: [lora], worth: {1.0: 0.01, 3.0: 0.02}}]}`."""
        return cls({frozenset(row["methods"]): row["worth"] for row in data["methods"]}, data["curve"])

    def worth(self, methods: Iterable[str], lr: float) -> float | None:
        """What a candidate is worth: between two factors of the rate, what lies between what it is worth there.

        Methods that were not recorded together count as the mean of those that were recorded with some of them.

        Args:
            methods: Of its design.
            lr: Its learning rate, as a factor of the run's own.

        Returns:
            None for methods of which nothing was recorded.
        """
        wanted = frozenset(methods)
        exact = self.worths.get(wanted)
        near = [exact] if exact is not None else [own for names, own in self.worths.items() if names & wanted]
        return fmean(self._at(own, math.log10(lr)) for own in near) if near else None

    def _at(self, worths: Mapping[float, float], rate: float) -> float:
        factors = sorted(worths)
        rates, values = [math.log10(factor) for factor in factors], [worths[factor] for factor in factors]
        beyond = max(rates[0] - rate, rate - rates[-1], 0.0)
        return float(np.interp(rate, rates, values)) - self.curve * beyond**2


def expected(methods: Iterable[str], lr: float) -> tuple[float, ...] | None:
    """What a candidate is worth on other tasks, in shares of images, on each backbone that was recorded.

    Args:
        methods: Of its design.
        lr: Its learning rate, as a factor of the run's own.

    Returns:
        None for methods of which nothing was recorded.
    """
    wanted = frozenset(methods)
    found = [worth for recorded in _recorded() if (worth := recorded.worth(wanted, lr)) is not None]
    return tuple(found) if len(found) == len(_recorded()) else None


@cache
def _recorded() -> tuple[Recorded, ...]:
    return tuple(map(Recorded.from_dict, shipped()["expected"]))
