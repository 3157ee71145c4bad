"""How well the scores of a supernet rank candidates, where that was checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from petlas.search.reports.study_report import StudyReport
from petlas.search.reports.text import percent


def section(report: StudyReport) -> Iterator[RenderableType]:
    """Kendall's tau, what trusting the scores loses, and a scatter plot; nothing where it was not checked."""
    found = report.agreement
    if found is None:
        return
    lost = ", ".join(f"{100 * value:.1f} points with the best {top}" for top, value in found.regret.items())
    yield (
        f"supernet scores rank {len(found.points)} stand-alone designs with Kendall's tau {found.tau:.2f} "
        f"(95% interval {found.low:.2f} to {found.high:.2f}); trusting them loses {lost}"
    )
    if not found.trusted:
        yield "warning: the interval includes 0: on this evidence scores rank no better than chance"
    yield Text(scatter([(score, val) for _, score, val in found.points]), no_wrap=True)


def scatter(points: Sequence[tuple[float, float]], width: int = 60, height: int = 14) -> str:
    """A plot of values against scores, in characters; a digit is how many points share a place.

    Args:
        points: Pairs of score and value, as shares.
        width: Characters.
        height: Lines.
    """
    xs, ys = zip(*points, strict=True)

    def place(value: float, values: Sequence[float], cells: int) -> int:
        span = max(values) - min(values)
        return round((value - min(values)) / span * (cells - 1)) if span else (cells - 1) // 2

    counts = Counter((place(x, xs, width), place(y, ys, height)) for x, y in points)
    lines = []
    for row in reversed(range(height)):
        label = percent(max(ys)) if row == height - 1 else percent(min(ys)) if row == 0 else ""
        cells = (counts.get((column, row), 0) for column in range(width))
        lines.append(f"{label:>6} |" + "".join(" " if not n else "o" if n == 1 else str(min(n, 9)) for n in cells))
    left, right = percent(min(xs)), percent(max(xs))
    axis = f"{'':>6} +{'-' * width}\n{'val %':>6}  {left}{'score %':^{width - len(left) - len(right)}}{right}"
    return "\n".join(line.rstrip() for line in lines) + "\n" + axis
