"""Where the best designs put what."""

from __future__ import annotations

from collections import defaultdict

from petlas.search.reports.page.contest import methods_of
from petlas.search.reports.page.html import heat
from petlas.search.reports.page.run import RunView
from petlas.search.reports.text import measured

_SHOWN = 5


def section(run: RunView) -> str:
    """A map of blocks and methods with their sizes, a row for each method of each design."""
    rows: list[tuple[str, dict[int, str], dict[int, float]]] = []
    blocks, largest, without = 0, defaultdict[str, float](float), list[str]()
    for rank, row in enumerate(run.leaders[:_SHOWN], 1):
        sizes: dict[str, dict[int, int | None]] = defaultdict(dict)
        for placement in row.design.get("placements", []):
            if placement.get("block") is not None:
                sizes[placement["method"]][placement["block"]] = placement.get("size")
                blocks = max(blocks, placement["block"] + 1)
                largest[placement["method"]] = max(largest[placement["method"]], placement.get("size") or 1)
        own_settings = "".join(f", {setting} {value:.2g}" for setting, value in row.settings.items())
        end = f"{own_settings} ({measured(run.metric, row.val)})"
        if not sizes:
            without.append(f"{rank}. {methods_of(row.design)}{end}")
        for method, own in sizes.items():
            name = f"{rank}. {method}{end}"
            told = {block: "•" if size is None else str(size) for block, size in own.items()}
            rows.append((name, told, {block: (size or 1) / largest[method] for block, size in own.items()}))
    if not rows:
        return ""
    rest = f" Not here, as they have nothing in single blocks: {'; '.join(without)}." if without else ""
    return heat(
        f"The sizes of the best {min(_SHOWN, len(run.leaders))} designs by block and method, the chosen one first; in "
        f"brackets {'what is believed of it' if run.by_belief else 'the value on val'}. The darker, the nearer to the "
        f"largest size of that method here.{rest}",
        [name for name, _, _ in rows],
        range(blocks),
        [[(shares[b], told[b]) if b in told else None for b in range(blocks)] for _, told, shares in rows],
        corner="block",
    )
