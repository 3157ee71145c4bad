"""Values and names as people read them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

from petlas.search.objectives import Metric
from petlas.spaces import Candidate

USUAL = Metric("accuracy", paired=True)
"""What is told of where no other metric is known."""

_UNREADABLE = {"Cc", "Cs", "Zl", "Zp"}
"""Control characters, bytes that are no text, and line breaks."""


def shown(name: object) -> str:
    """A name of a file, a class or a run on one line: what no terminal shows is escaped, all else as it is."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _UNREADABLE else character
        for character in str(name)
    )


def shorten(name: str, letters: int, end: bool = False) -> str:
    """A name of at most so many letters, with a mark where the rest was.

    Args:
        name: The name.
        letters: How many, the mark included.
        end: Whether the end is kept, as a file's name tells more than its folders.
    """
    if len(name) <= letters:
        return name
    return "…" + name[len(name) - letters + 1 :] if end else name[: letters - 1] + "…"


def percent(value: float | None) -> str:
    """A share in percent, `-` where there is none."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def measured(metric: Metric, value: float | None) -> str:
    """A value of a metric for a column whose head has the unit.

    Args:
        metric: What was measured.
        value: Its value; None or NaN where there is none.
    """
    if value is None or math.isnan(value):
        return "-"
    return metric.format(value).removesuffix("%")


def spread(metric: Metric, mean: float, std: float, count: int) -> str:
    """A mean over seeds, with its standard deviation where there are several.

    Args:
        metric: What was measured.
        mean: Over the seeds.
        std: Over the seeds.
        count: How many there are.
    """
    return measured(metric, mean) + (f" ± {measured(metric, std)}" if count > 1 else "")


def unit(metric: Metric) -> str:
    """What stands behind a column's name: ` %` for shares."""
    return " %" if metric.percent else ""


def standard_error(metric: Metric, value: float, images: int | None) -> float | None:
    """The standard error of a mean over images, None where the value is none or the images are not known.

    Args:
        metric: What was measured.
        value: Its value.
        images: How many it was measured on.
    """
    if not (metric.paired and images and 0 <= value <= 1):
        return None
    return math.sqrt(value * (1 - value) / images)


def points(metric: Metric, error: float) -> str:
    """A difference or a standard error of values with its unit.

    Args:
        metric: What was measured.
        error: As the values are.
    """
    return f"{100 * error:.1f} points" if metric.percent else f"{error:.2g}"


def error_text(error: float | None, images: int | None) -> str:
    """A standard error in words, with a blank before it; nothing where there is none.

    Args:
        error: As a share.
        images: How many the value was measured on.
    """
    if error is None or math.isnan(error):
        return ""
    return f" (standard error {100 * error:.1f} points on {images:,} images)"


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use."""
    for name, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} s"


def candidate_text(design: Mapping[str, Any], settings: Mapping[str, float]) -> str:
    """A candidate on one line; nothing where a trial has no design yet.

    Args:
        design: As plain data.
        settings: By their names.
    """
    return str(Candidate.from_dict({**design, "settings": dict(settings)})) if design else ""


def chosen_text(design: Mapping[str, Any], settings: Mapping[str, float]) -> str:
    """The candidate that a search chose, on one line, which says so where nothing is inserted.

    Args:
        design: As plain data.
        settings: By their names.
    """
    told = candidate_text(design, settings)
    return told if design["placements"] else f"{told} (nothing helps: no module that was tried beats the head alone)"
