"""What recorded runs say of tasks, candidates, rates and short trainings: what `petlas.search.selection.noise` holds.

    python benchmarks/selection/spreads.py > benchmarks/selection/spreads.md

The runs of the portfolio have 8,000 image passes, and the same recipes were recorded with 2,400 before (short.jsonl):
a third of the steps. By task: what ten times the rate is worth beside what it is worth on all (tilt), what is left of
the recipes' differences when their means over tasks and the tilt are taken off, beside the noise of the test images
that does not hit all alike; and what the third of the steps said: by how much it flattered ten times the rate, and how
far it was off beside that, without the noise.
"""

from __future__ import annotations

import json
import math
from statistics import fmean, stdev

import numpy as np
import numpy.typing as npt
from replay import RESULTS, TESTED

OWN = 0.35
"""The part of the noise of images that does not hit all candidates alike."""
Array = npt.NDArray[np.float64]


def read(name: str) -> dict[str, dict[str, float]]:
    """For each task the accuracy of each recipe with methods, by its JSON; prompts have rates of their own."""
    found: dict[str, dict[str, float]] = {}
    for row in map(json.loads, RESULTS.with_name(name).read_text().splitlines()):
        if row["recipe"]["methods"] and "vpt" not in row["recipe"]["methods"]:
            found.setdefault(row["task"], {})[json.dumps(row["recipe"])] = row["test"]
    return found


def rates(recipes: list[str]) -> Array:
    """The decimal logarithms of their learning rates, about their mean."""
    logs = np.log10([json.loads(recipe)["settings"]["lr"] for recipe in recipes])
    return np.asarray(logs - logs.mean())


def sloped(values: Array, at: Array) -> tuple[float, Array]:
    """The slope of values over rates, and what is left beside it."""
    slope = float((values - values.mean()) @ at / (at @ at))
    return slope, values - values.mean() - slope * at


def noise(task: str, values: Array) -> float:
    """The variance of a value by its test images, where it is not shared by all candidates."""
    return OWN * float((values * (1 - values)).mean()) / TESTED.get(task, 400)


def beyond(left: Array, freedom: int, known: float) -> float:
    """The standard deviation beside what is known of the variance."""
    return math.sqrt(max(0.0, float(left @ left) / freedom - known))


def main() -> None:
    whole, short = read("results.jsonl"), read("short.jsonl")
    common = sorted(set.intersection(*(set(own) for own in whole.values())))
    table = np.array([[whole[task][recipe] for recipe in common] for task in whole])
    table = table - table.mean(0)
    print("```\npython benchmarks/selection/spreads.py\n```\n\nIn points.\n")
    print("| task | tilt | left | flattered | deviation |\n|---|---|---|---|---|")
    rows = []
    for task, values in zip(whole, table, strict=True):
        tilt, left = sloped(values, rates(common))
        own = [recipe for recipe in whole[task] if recipe in short[task]]
        long, brief = (np.array([runs[task][recipe] for recipe in own]) for runs in (whole, short))
        flattered, off = sloped(brief - long, rates(own))
        rest = beyond(left, len(common) - 2, noise(task, long))
        deviation = beyond(off, len(own) - 2, noise(task, long) + noise(task, brief))
        rows.append((tilt, rest, flattered, deviation))
        print(f"| {task} | " + " | ".join(f"{100 * value:.1f}" for value in rows[-1]) + " |")
    tilts, rests, flatters, deviations = zip(*rows, strict=True)
    told = {
        "Tilt: standard deviation": stdev(tilts),
        "Left: root mean square": math.sqrt(fmean(value**2 for value in rests)),
        "Flattered: mean": fmean(flatters),
        "and standard deviation": stdev(flatters),
        "Deviation: root mean square": math.sqrt(fmean(value**2 for value in deviations)),
    }
    print("\n" + ". ".join(f"{name} {100 * value:.1f}" for name, value in told.items()) + ".")


if __name__ == "__main__":
    main()
