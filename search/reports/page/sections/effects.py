"""What helped and what hurt: trials that have a place, a method or a setting against those that have not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial, TrialState

from petlas.search.config import RunConfig
from petlas.search.reports.page.html import figure, text
from petlas.search.reports.page.run import RunView
from petlas.search.study import SCORE, is_interrupted

FEWEST = 8
"""Trials that effects can be told from."""
_SIDE = 3
"""Trials that there must be with a feature, and without it."""
_SHOWN = 20


@dataclass(frozen=True)
class Effect:
    """By how much trials with a feature were better than those without it.

    Args:
        name: The feature's.
        value: The difference of the means; above 0 is better, whatever the metric.
        error: Its standard error.
        having: How many trials have it.
    """

    name: str
    value: float
    error: float
    having: int


def section(run: RunView) -> str:
    """The effects that are surest, over all trials that have a value where all have one."""
    trials, values, told = _population(run)
    found = effects(run.config, trials, values, run.metric.maximize) if len(trials) >= FEWEST else []
    if not found:
        return ""
    surest = sorted(found, key=lambda one: -abs(one.value) / (one.error or 1e-12))[:_SHOWN]
    surest.sort(key=lambda one: one.value)
    scale, unit = (100, "points") if run.metric.percent else (1, text(run.metric.name))
    points = {
        "type": "scatter",
        "mode": "markers",
        "x": [scale * one.value for one in surest],
        "y": [*range(len(surest))],
        "error_x": {"type": "data", "array": [scale * one.error for one in surest], "thickness": 1.2, "width": 3},
        "marker": {"size": 8},
        "text": [f"{one.having} of {len(trials)} trials have it" for one in surest],
        "hovertemplate": "%{x:+.2f} ± %{error_x.array:.2f}<br>%{text}<extra></extra>",
    }
    count = (
        f"{len(found)} feature{'' if len(found) == 1 else 's'}"
        if len(found) <= _SHOWN
        else f"the surest {len(surest)} of {len(found)} features"
    )
    return figure(
        f"By how many {unit} the trials that have a method, a place or a setting were better than those that have not: "
        f"{count} over {len(trials):,} {told}. A line is one standard error to either side. Of many features about one "
        "in twenty lies beyond two by chance, and features come together: a hint for the next search, no proof.",
        [points],
        height=110 + 24 * len(surest),
        xaxis={"title": {"text": f"better by, {unit}"}, "zeroline": True, "zerolinewidth": 2},
        yaxis={
            "tickvals": [*range(len(surest))],
            "ticktext": [text(one.name) for one in surest],
            "range": [-0.7, len(surest) - 0.3],
            "zeroline": False,
        },
    )


def effects(
    config: RunConfig, trials: Sequence[FrozenTrial], values: npt.NDArray[np.float64], maximize: bool
) -> list[Effect]:
    """The effect of every feature that some trials have and others have not; of features that go together, one.

    Args:
        config: The run's, which says what settings are where a trial has none of its own.
        trials: N of them.
        values: (N,) what each came to, of which only differences count.
        maximize: Whether a higher value is better.
    """
    found, seen = [], set[bytes]()
    for name, has in _features(config, trials):
        with_, without = values[has], values[~has]
        if min(len(with_), len(without)) < _SIDE or has.tobytes() in seen:
            continue
        seen.add(has.tobytes())
        value = float(with_.mean() - without.mean()) * (1 if maximize else -1)
        error = math.sqrt(with_.var(ddof=1) / len(with_) + without.var(ddof=1) / len(without))
        found.append(Effect(name, value, error, len(with_)))
    return found


def _population(run: RunView) -> tuple[list[FrozenTrial], npt.NDArray[np.float64], str]:
    """The trials that compare, what each came to less the mean of those that were measured alike, and in words."""
    ended = [t for t in run.trials if t.state is not TrialState.FAIL and not is_interrupted(t)]
    scores = [t for t in ended if t.user_attrs.get("stage") == SCORE and t.values and math.isfinite(t.values[0])]
    trained = [t for t in ended if t.user_attrs.get("stage") != SCORE and t.intermediate_values]
    if len(scores) > len(trained):
        trials, values, told = scores, [t.values[0] for t in scores], "scores with the supernet's weights"
    else:
        epoch = min((max(trial.intermediate_values) for trial in trained), default=0)
        trials = [t for t in trained if math.isfinite(t.intermediate_values.get(epoch, math.nan))]
        values = [trial.intermediate_values[epoch] for trial in trials]
        after = "epoch, the last one" if epoch == 1 else f"{epoch} epochs, the last"
        told = f"trials, by their values after the first {after} that all of them reached"
    alike = [tuple(t.user_attrs.get(key) for key in ("of_epochs", "seed", "fold", "folds", "repeat")) for t in trials]
    groups = {kind: [n for n, own in enumerate(alike) if own == kind] for kind in alike}
    centred = np.array(values, np.float64)
    for members in groups.values():
        centred[members] -= centred[members].mean()
    kept = [n for n, own in enumerate(alike) if len(groups[own]) > 1 and trials[n].user_attrs.get("design")]
    return [trials[n] for n in kept], centred[kept], told


def _features(config: RunConfig, trials: Sequence[FrozenTrial]) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """What trials have or have not: methods, settings, and methods in blocks, each with a mask (N,)."""
    rows = [_sizes(trial) for trial in trials]
    settings: list[Mapping[str, float]] = [trial.user_attrs.get("settings", {}) for trial in trials]
    names = sorted({name for row in rows for name in row}, key=lambda name: (name[1] is not None, name))
    for method, block in names:
        label = method if block is None else f"{method} in block {block}"
        yield from _split(label, np.array([row.get((method, block), 0) for row in rows], np.float64))
    for name in sorted({name for own in settings for name in own}):
        usual = config.train.usual(name)
        yield from _split(name, np.array([own.get(name, usual) for own in settings], np.float64))


def _split(name: str, values: npt.NDArray[np.float64]) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Those that have something against those that have nothing; where all have it, the larger against the smaller."""
    present = values > 0
    if not present.all():
        yield name, present
    else:
        middle = float(np.median(values))
        yield f"{name} above {middle:.3g}", values > middle


def _sizes(trial: FrozenTrial) -> dict[tuple[str, int | None], float]:
    """The size of each method in each block, and its largest in any; 1 for a method without sizes."""
    found: dict[tuple[str, int | None], float] = {}
    for placement in trial.user_attrs["design"].get("placements", []):
        method, block, size = placement["method"], placement.get("block"), placement.get("size") or 1
        for place in {(method, block), (method, None)}:
            found[place] = max(found.get(place, 0), size)
    return found
