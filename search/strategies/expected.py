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
    def of(cls, rows: Iterable[Mapping[str, Any]], curve: float) -> Recorded:
        """What was recorded, of plain data.

        Args:
            rows: Such as `{methods: [lora], worth: {1.0: 0.01, 3.0: 0.02}}`.
            curve: What is lost by a rate ten times beyond those.
        """
        return cls({frozenset(row["methods"]): row["worth"] for row in rows}, curve)

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


def expected(methods: Iterable[str], lr: float, backbone: str = "") -> tuple[float, ...] | None:
    """What a candidate is worth on other tasks, in shares of images: on its backbone, or on each that was recorded.

    Args:
        methods: Of its design.
        lr: Its learning rate, as a factor of the run's own.
        backbone: Its name; of one that was not recorded, the search's own values say which of the others it is like.

    Returns:
        None for methods of which nothing was recorded.
    """
    wanted, known = frozenset(methods), _recorded()
    alike = [known[backbone]] if backbone in known else [*known.values()]
    found = [recorded.worth(wanted, lr) for recorded in alike]
    worths = tuple(worth for worth in found if worth is not None)
    return worths if len(worths) == len(found) else None


@cache
def _recorded() -> dict[str, Recorded]:
    data = shipped()
    return {name: Recorded.of(own["expected"], data["curve"]) for name, own in data["backbones"].items()}
