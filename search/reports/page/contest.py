"""Who stands against whom: the design that was found, and the known ones, on val and on test."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from petlas.search.predictions import Predictions
from petlas.search.reports.page.run import RunView, key_of
from petlas.search.reports.text import standard_error
from petlas.search.study import PORTFOLIO, TrialRow

FOUND, RETRAINED, BASELINE, KNOWN = "found", "retrained", "baseline", "portfolio"
"""What the search chose; what the user retrained in its place; what was known before, at the budget and of recipes."""


@dataclass(frozen=True)
class Measured:
    """A value with its standard error, where that is known.

    Args:
        value: The value, or the mean over seeds.
        error: Of it: of its images, and of its seeds where there are several.
        seeds: How many there are.
        std: The standard deviation over them.
    """

    value: float
    error: float | None
    seeds: int = 1
    std: float = 0.0


@dataclass(frozen=True)
class Contender:
    """A design that was found, or known before.

    Args:
        kind: `found`, `retrained`, `baseline` or `portfolio`.
        key: The candidate's.
        design: As plain data.
        settings: Its own.
        params: Trainable parameters, head excluded.
        val: Its value on val, or what is believed of it; None where it was not searched.
        test: Its value on test; None where that was not read for it.
    """

    kind: str
    key: str
    design: Mapping[str, Any]
    settings: Mapping[str, float]
    params: int
    val: Measured | None
    test: Measured | None

    @property
    def name(self) -> str:
        """Its kind, or of a known one its methods."""
        return self.kind if self.kind in (FOUND, RETRAINED) else methods_of(self.design)

    @property
    def label(self) -> str:
        """What it is called where there is little room."""
        told = methods_of(self.design) + "".join(f", {name} {value:.2g}" for name, value in self.settings.items())
        return f"{self.kind}: {told}" if self.kind in (FOUND, RETRAINED) else told


def methods_of(design: Mapping[str, Any]) -> str:
    """The methods of a design, each once."""
    return " + ".join(dict.fromkeys(p["method"] for p in design.get("placements", []))) or "linear"


def contenders(run: RunView) -> list[Contender]:
    """What was found comes first; then the known designs, the best first.

    Args:
        run: The run.
    """
    return [*_found(run), *sorted(_known(run), key=lambda one: _order(run, one))]


def _found(run: RunView) -> Iterator[Contender]:
    chosen = None if run.best is None else _of_row(run, FOUND, run.best)
    if chosen is not None:
        yield chosen
    if run.retrained and run.retrained_key and (chosen is None or chosen.key != run.retrained_key):
        yield _of_outcome(run, RETRAINED, run.retrained)


def _known(run: RunView) -> Iterator[Contender]:
    seen = {one.key for one in _found(run)}
    portfolio = run.keys_of(PORTFOLIO)
    rows = (_of_row(run, KNOWN if row.key in portfolio else BASELINE, row) for row in run.known)
    for one in (*rows, *(_of_outcome(run, BASELINE, outcome) for outcome in run.baselines)):
        if one.key not in seen:
            seen.add(one.key)
            yield one


def _order(run: RunView, one: Contender) -> tuple[float, int]:
    sign = -1 if run.metric.maximize else 1
    first = one.test or one.val
    return (math.inf if first is None else sign * first.value), one.params


def _of_row(run: RunView, kind: str, row: TrialRow) -> Contender:
    val = None if row.val is None else Measured(row.val, run.report.error(row))
    key = key_of({"design": row.design, "settings": row.settings})
    return Contender(kind, key, row.design, row.settings, row.params, val, tested(run, key))


def _of_outcome(run: RunView, kind: str, outcome: Mapping[str, Any]) -> Contender:
    key, own = key_of(outcome), (outcome["design"], outcome.get("settings") or {})
    if (row := run.report.of_candidate(key)) is not None:
        return _of_row(run, kind, row)
    val = None if run.report.believed is not None else outcome.get("val")  # of a training that was not whole
    measured = None if val is None else Measured(val, standard_error(run.metric, val, run.report.images))
    return Contender(kind, key, *own, outcome.get("params", 0), measured, tested(run, key))


def tested(run: RunView, key: str) -> Measured | None:
    """What a candidate came to on test; None where test was not read for it.

    Args:
        run: The run.
        key: The candidate's.
    """
    for outcome in [*([run.retrained] if run.retrained else []), *run.baselines]:
        if key_of(outcome) == key:
            mean, seeds = outcome["test_mean"], len(outcome["seeds"])
            images = next((len(one.images) for one in run.predictions if one.about.key == key), None)
            errors = [standard_error(run.metric, mean, images)]
            errors += [outcome["test_std"] / math.sqrt(seeds)] if seeds > 1 else []
            known = [error for error in errors if error is not None]
            return Measured(mean, math.hypot(*known) if known else None, seeds, outcome["test_std"])
    return None


def error_of_difference(run: RunView, one: Contender, other: Contender) -> float | None:
    """The standard error of the difference of two values on test; None where it is not known.

    Both were told the same images: where it is known which each was right of, what both fail on does not count.

    Args:
        run: The run.
        one: A tested design.
        other: Another one.
    """
    assert one.test is not None and other.test is not None
    groups = [_own(run, each.key) for each in (one, other)]
    if run.metric.paired and all(groups) and groups[0][0].about.test == groups[1][0].about.test:
        rights = [1.0 - np.mean([each.wrong for each in group], axis=0) for group in groups]
        images = float(np.std(rights[0] - rights[1])) / math.sqrt(len(rights[0]))
        over = [np.std([each.wrong.mean() for each in group], ddof=1) for group in groups if len(group) > 1]
        counts = [math.sqrt(len(group)) for group in groups if len(group) > 1]
        return math.hypot(images, *(float(std) / count for std, count in zip(over, counts, strict=True)))
    known = [each.test.error for each in (one, other) if each.test and each.test.error is not None]
    return math.hypot(*known) if len(known) == 2 else None


def error_on_val(run: RunView, one: Contender, other: Contender) -> float | None:
    """The standard error of the difference of what two designs were compared by; None where it is not known.

    Args:
        run: The run.
        one: A design.
        other: Another one.
    """
    if (believed := run.report.believed) is not None:
        known = one.key in believed.keys and other.key in believed.keys
        return believed.error_of_difference(one.key, other.key) if known else None
    errors = [each.val.error for each in (one, other) if each.val and each.val.error is not None]
    return math.hypot(*errors) if len(errors) == 2 else None


def _own(run: RunView, key: str) -> Sequence[Predictions]:
    """What a candidate said of the test images, by its seeds, as far as all is of the same images."""
    own = [one for one in run.predictions if one.about.key == key]
    return [one for one in own if one.about.test == own[-1].about.test]
