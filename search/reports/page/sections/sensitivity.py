"""Where the loss is sensitive."""

from __future__ import annotations

import math

from petlas.search.reports.page.html import heat
from petlas.search.reports.page.run import RunView


def section(run: RunView) -> str:
    """A heat map of blocks and operations; nothing where it was not measured."""
    sites = (run.sensitivity or {}).get("sites")
    if not sites:
        return ""
    operations = list(dict.fromkeys(operation for site in sites for operation in site))
    total = sum(sum(site.values()) for site in sites) or 1.0
    least = min((share for site in sites for share in site.values() if share > 0), default=1.0)
    most = max((share for site in sites for share in site.values()), default=1.0)
    span = math.log(most / least) or 1.0

    def cell(site: dict[str, float], operation: str) -> tuple[float, str] | None:
        if operation not in site:
            return None
        share = site[operation]
        dark = math.log(share / least) / span if share > 0 else 0.0
        return dark, f"{100 * share / total:.2f}"

    return heat(
        "The share of each operation of each block in the whole sensitivity of the loss, in percent; the darker, the "
        "more, on a logarithmic scale.",
        operations,
        range(len(sites)),
        [[cell(site, operation) for site in sites] for operation in operations],
        corner="block",
    )
