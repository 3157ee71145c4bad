"""What the scores of a supernet say of designs that were not trained: evidence of its own, as good as it ranked.

Scores have another scale than values, and rank only so well. Both are known of the designs that were trained to check
them: of a Kendall's tau there follows the correlation of normal variables, r = sin(pi tau / 2) (Greiner, 1909), which
hardly heeds single outliers, and of that the line from scores to values and what is left beside it. Torch-free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, pvariance

from petlas.search.selection.agreement import Agreement

_LEAST = 0.2
"""The error of a score, in standard deviations of the values, is no smaller: a few designs cannot show that it is."""


@dataclass(frozen=True)
class Scale:
    """From scores to values.

    Args:
        slope: What a value grows by with a score.
        offset: The value of a score of 0.
        error: The standard deviation of what a design is worth, beside what its score says.
    """

    slope: float
    offset: float
    error: float

    def value(self, score: float) -> float:
        """What a score says that a whole training would give.

        Args:
            score: Of a design.
        """
        return self.offset + self.slope * score


def scale_of(found: Agreement, noise: float) -> Scale | None:
    """How scores are to be read; None where they rank no better than chance, or all are equal.

    What is lost by the best by score is an error of scores where it matters most: it counts as one design more.

    Args:
        found: How well scores rank designs that were trained, the higher the better of both.
        noise: The variance of a trained value, such as that of a share of images.
    """
    scores, values = [score for _, score, _ in found.points], [value for _, _, value in found.points]
    spread, width = pvariance(values), pvariance(scores)
    if not found.trusted or not spread or not width:
        return None
    r = math.sin(math.pi / 2 * found.tau)
    beside = (len(values) * spread * (1 - r**2) + found.regret[1] ** 2) / (len(values) + 1)
    slope, error = r * math.sqrt(spread / width), math.sqrt(max(beside - noise, _LEAST**2 * spread))
    return Scale(slope, fmean(values) - slope * fmean(scores), error)
