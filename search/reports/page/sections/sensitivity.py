"""Where the loss is sensitive."""

from __future__ import annotations

import math

from petlas.search.reports.page.html import figure, text
from petlas.search.reports.page.run import RunView


def section(run: RunView) -> str:
    """A heat map of blocks and operations; nothing where it was not measured."""
    sites = (run.sensitivity or {}).get("sites")
    if not sites:
        return ""
    operations = list(dict.fromkeys(operation for site in sites for operation in site))
    total = sum(sum(site.values()) for site in sites) or 1.0
    shares = [[site.get(operation, 0.0) / total for site in sites] for operation in operations]
    heat = {
        "type": "heatmap",
        "x": list(range(len(sites))),
        "y": [text(operation) for operation in operations],
        "z": [[math.log10(share) if share > 0 else None for share in row] for row in shares],
        "text": [[f"{100 * share:.2f}%" for share in row] for row in shares],
        "hovertemplate": "%{y}, block %{x}: %{text}<extra></extra>",
        "colorscale": "Viridis",
        "colorbar": {"title": {"text": "log10"}},
    }
    return figure(
        "The share of each operation of each block in the whole sensitivity of the loss, on a logarithmic scale.",
        [heat],
        height=130 + 28 * len(operations),
        xaxis={"title": {"text": "block"}, "dtick": 1},
    )
