"""Pieces of HTML. Whatever is not said here to be HTML is data, and escaped: names hold anything."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from petlas.search.reports.text import shown

COLOURS = ("#3b82d6", "#e07b39", "#3a9e6e", "#c94f7c", "#8a63d2", "#b08900", "#2aa1b3", "#808890")
"""Of what is drawn, in their order; the last one, a grey, is that of lines that only guide the eye."""


def text(value: object) -> str:
    """A value or a name as text."""
    return html.escape(shown(value))


def tag(name: str, body: str, **attributes: str) -> str:
    """An element.

    Args:
        name: Its name.
        body: HTML.
        attributes: Text; `kind` stands for `class`.
    """
    told = "".join(f' {"class" if key == "kind" else key}="{html.escape(value)}"' for key, value in attributes.items())
    return f"<{name}{told}>{body}</{name}>"


def paragraph(sentence: str) -> str:
    """A paragraph of a text."""
    return tag("p", text(sentence))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; columns whose name ends in `#` are aligned to the right.

    Args:
        columns: Their names.
        rows: As many cells each.
    """
    kinds = ["number" if name.endswith("#") else "" for name in columns]
    head = "".join(
        tag("th", text(name.removesuffix("#")), kind=kind) for name, kind in zip(columns, kinds, strict=True)
    )
    body = "".join(
        tag("tr", "".join(tag("td", text(cell), kind=kind) for cell, kind in zip(row, kinds, strict=True)))
        for row in rows
    )
    return tag("div", tag("table", tag("thead", tag("tr", head)) + tag("tbody", body)), kind="wide")


def heat(
    caption: str,
    rows: Sequence[str],
    columns: Sequence[object],
    cells: Sequence[Sequence[tuple[float, str] | None]],
    corner: str = "",
    upright: bool = False,
) -> str:
    """A table whose cells are the darker the more they are, which needs no script and prints as it is.

    Args:
        caption: What it shows.
        rows: Their names.
        columns: Their names.
        cells: For each row as many as there are columns: a share in 0..1 and what is said there, or None.
        corner: What the columns are.
        upright: Whether the names of the columns are long, and stand upright.
    """
    head = tag("th", text(corner)) + "".join(tag("th", tag("span", text(name))) for name in columns)
    body = "".join(
        tag("tr", tag("th", text(name)) + "".join(map(_heat_cell, own))) for name, own in zip(rows, cells, strict=True)
    )
    drawn = tag("table", tag("thead", tag("tr", head)) + tag("tbody", body), kind="heat upright" if upright else "heat")
    return tag("figure", tag("div", drawn, kind="wide") + tag("figcaption", text(caption)))


def _heat_cell(cell: tuple[float, str] | None) -> str:
    if cell is None:
        return "<td></td>"
    share = min(1.0, max(0.0, cell[0])) if math.isfinite(cell[0]) else 0.0
    return f'<td style="--share:{100 * share:.0f}%">{text(cell[1])}</td>'


def figure(caption: str, data: Sequence[Mapping[str, Any]], height: int = 380, **layout: Any) -> str:
    """A figure that plotly draws.

    Args:
        caption: What it shows.
        data: plotly's traces; all texts in them must be escaped by `text`, as plotly reads some markup.
        height: In pixels.
        layout: plotly's.
    """
    spec = json.dumps(_plain({"data": data, "layout": {"height": height} | layout}), separators=(",", ":"))
    inside = spec.replace("<", "\\u003c").replace("&", "\\u0026")  # so that no text ends the script
    plot = tag("div", "", kind="plot", style=f"min-height:{height}px")
    return tag("figure", plot + f'<script type="application/json">{inside}</script>' + tag("figcaption", text(caption)))


def _plain(data: Any) -> Any:
    """What is no finite number is null."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    return data
