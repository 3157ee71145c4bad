"""Several runs beside each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from petlas.search.reports.comparing import columns, compared, note
from petlas.search.reports.page.contest import (
    FOUND,
    RETRAINED,
    Contender,
    contenders,
    error_of_difference,
    error_on_val,
)
from petlas.search.reports.page.html import heat, paragraph, table, tag
from petlas.search.reports.page.run import RunView
from petlas.search.reports.text import measured, shorten

_LETTERS = 28


def comparison(views: Sequence[RunView]) -> str:
    """What each run found, with means; which method won where; and where each found to put what.

    Args:
        views: The runs.
    """
    return tag("section", tag("h2", f"{len(views)} runs") + _values(views)) + "".join(
        tag("section", tag("h2", title) + body)
        for title, body in (("Which method won where", _won(views)), ("What was found where", _sizes(views)))
        if body
    )


def _values(views: Sequence[RunView]) -> str:
    """A table of what each run found; means where all have the same metric."""
    same = len({view.metric for view in views}) == 1
    told = "" if same else paragraph("The runs have different metrics, so there is no mean of their values.")
    return told + table(columns(views), compared(views)) + paragraph(note(views))


# Who won


def _won(views: Sequence[RunView]) -> str:
    """Methods by runs, with their values; the best of each run is the darkest."""
    by_run = [_best_of_each(view) for view in views]
    names = list(dict.fromkeys(name for own, _ in by_run for name in own))
    if len(names) < 2:
        return ""
    winners = [_winner(view, own, on_test) for view, (own, on_test) in zip(views, by_run, strict=True)]
    wins = Counter(winner for winner in winners if winner is not None)
    names.sort(key=lambda name: (name != FOUND, -wins[name], name))

    def cell(name: str, place: int) -> tuple[float, str] | None:
        view, (own, on_test), winner = views[place], by_run[place], winners[place]
        if name not in own or winner is None:
            return None
        told = measured(view.metric, _value(own[name], on_test))
        if name == winner:
            return 1.0, f"{told} ★"
        return (0.4 if _close(view, own[winner], own[name], on_test) else 0.0), told

    places = range(len(views))
    rows = [[(0.0, str(wins[name])), *(cell(name, place) for place in places)] for name in names]
    columns = [shorten(views[place].name, _LETTERS) + (", test" if by_run[place][1] else "") for place in places]
    return heat(
        "The value of what was found and of each known method, in each run: on test where that was read for several "
        "designs (named so), else as the search compared them. ★ won; half dark is what is within two standard errors "
        "of it, so that it may be as good; nothing is where no error is known.",
        [shorten(name, _LETTERS) for name in names],
        ["won", *columns],
        rows,
        upright=len(views) > 4,
    )


def _best_of_each(view: RunView) -> tuple[dict[str, Contender], bool]:
    """The best contender of each name, and whether they are compared on test."""
    found = [one for one in contenders(view) if one.kind != RETRAINED]
    on_test = sum(one.test is not None for one in found) > 1 and bool(found[0].test)
    sign, best = 1 if view.metric.maximize else -1, dict[str, Contender]()
    for one in found:
        if _value(one, on_test) is None:
            continue
        other = best.get(one.name)
        if other is None or sign * _sure(one, on_test) > sign * _sure(other, on_test):
            best[one.name] = one
    return best, on_test


def _winner(view: RunView, own: dict[str, Contender], on_test: bool) -> str | None:
    sign = 1 if view.metric.maximize else -1
    return max(own, key=lambda name: sign * _sure(own[name], on_test), default=None)


def _value(one: Contender, on_test: bool) -> float | None:
    found = one.test if on_test else one.val
    return None if found is None else found.value


def _sure(one: Contender, on_test: bool) -> float:
    value = _value(one, on_test)
    assert value is not None
    return value


def _close(view: RunView, one: Contender, other: Contender, on_test: bool) -> bool:
    error = (error_of_difference if on_test else error_on_val)(view, one, other)
    return error is not None and abs(_sure(one, on_test) - _sure(other, on_test)) <= 2 * error


# Sizes


def _sizes(views: Sequence[RunView]) -> str:
    """Methods by runs: in how many blocks the chosen designs have them, and how large."""
    placed: list[dict[str, list[int | None]]] = []
    for view in views:
        own: dict[str, list[int | None]] = defaultdict(list)
        for placement in view.best.design.get("placements", []) if view.best else []:
            own[placement["method"]].append(placement.get("size"))
        placed.append(own)
    names = list(dict.fromkeys(name for own in placed for name in own))
    if not names:
        return ""
    most = max(len(sizes) for own in placed for sizes in own.values())

    def cell(sizes: list[int | None] | None) -> tuple[float, str] | None:
        if not sizes:
            return None
        known = [size for size in sizes if size is not None]
        low, high = (min(known), max(known)) if known else (0, 0)
        size = "" if not known else f" x {low}" if low == high else f" x {low} to {high}"
        return len(sizes) / most, f"{len(sizes)}{size}"

    return heat(
        "The designs that were found: in how many places each method is, and of which sizes. The darker, the more "
        "places.",
        names,
        [shorten(view.name, _LETTERS) for view in views],
        [[cell(own.get(name)) for own in placed] for name in names],
        upright=len(views) > 4,
    )
