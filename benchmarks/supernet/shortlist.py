"""What a shortlist loses by scores alone, and by scores and the trainings that checked them, where the truth is known.

    python benchmarks/supernet/shortlist.py --tasks 300 > benchmarks/supernet/shortlist.md

A simulated task has 200 designs of four methods, whose worth is that of their method and something of their own. Scores
know it up to an error that designs of one method share, as inherited weights flatter some methods, and one of their
own. Twelve designs, spread over the scores, are trained and measured on 200 images; then five are shortlisted. Regret
is what the best of all designs has more than the best of those five, in points.
"""

from __future__ import annotations

import argparse
import math
from statistics import fmean, stdev

import numpy as np

from petlas.search.selection import Evidence, Known, Measurement, agreement_of, believe, scale_of
from petlas.search.training.fidelity import Fidelity

DESIGNS, METHODS, CHECKED, IMAGES, SHORT = 200, 4, 12, 200, 5
LOOKED_AT = 60
CASES = {
    "2 and 1.5": {"3 and 2": (0.02, 0.015, 0.03, 0.02)},
    "4 and 3": {
        "0 and 2": (0.04, 0.03, 0.0, 0.02),
        "3 and 2": (0.04, 0.03, 0.03, 0.02),
        "6 and 4": (0.04, 0.03, 0.06, 0.04),
    },
}
"""For the standard deviations of methods and designs, and those of the errors of scores that a method shares and of a
design's own (in points): all four."""


def task(seed: int, methods: float, designs: float, shared: float, own: float) -> tuple[float, float] | None:
    """The regret by scores alone and by both; None where scores rank no better than chance.

    Args:
        seed: Of the task.
        methods: The standard deviation of methods.
        designs: That of designs of one method.
        shared: That of the error of scores that designs of a method share.
        own: That of each design's own.
    """
    rng, of = np.random.default_rng(seed), np.arange(DESIGNS) % METHODS
    truth = np.clip(0.7 + rng.normal(0, methods, METHODS)[of] + rng.normal(0, designs, DESIGNS), 0, 1)
    scores = truth + rng.normal(0, shared, METHODS)[of] + rng.normal(0, own, DESIGNS)
    order = np.argsort(-scores)
    values = {int(i): rng.binomial(IMAGES, truth[i]) / IMAGES for i in order[:: DESIGNS // (CHECKED - 1)]}
    found = agreement_of([(i, scores[i], value) for i, value in values.items()])
    scale = None if found is None else scale_of(found, fmean(v * (1 - v) / IMAGES for v in values.values()))
    if scale is None:
        return None
    rows = [(str(i), Fidelity(9, 0), Measurement(value, IMAGES)) for i, value in values.items()]
    for i in {*map(int, order[:LOOKED_AT]), *values}:
        rows.append((str(i), Fidelity(0, 0), Measurement(scale.value(scores[i]), 0, error=scale.error)))
    known = {key: Known(frozenset({str(of[int(key)])})) for key, _, _ in rows}
    both = believe(Evidence.of(rows, 9), known).ranked(dict.fromkeys(known, 1))
    best = truth.max()
    return best - truth[order[:SHORT]].max(), best - max(truth[int(key)] for key in both[:SHORT])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=300)
    tasks = parser.parse_args().tasks
    print("| designs | scores | trusted | by scores alone | by scores and trainings | difference |")
    print("|---|---|---|---|---|---|")
    for spread, cases in CASES.items():
        for errors, case in cases.items():
            lost = [found for seed in range(tasks) if (found := task(seed, *case)) is not None]
            cells = []
            for column in ([a for a, _ in lost], [b for _, b in lost], [b - a for a, b in lost]):
                cells.append(f"{100 * fmean(column):.2f} ± {100 * stdev(column) / math.sqrt(len(column)):.2f}")
            print(f"| {spread} | {errors} | {len(lost)} of {tasks} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
