"""The picture of what an adapter attends to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from petlas.search.reports.picture import write_picture
from petlas.search.reports.text import shown

if TYPE_CHECKING:
    from petlas.search.attention import Attention

_SHOWN = 12  # heads


def write_attention(found: Attention, path: Path) -> None:
    """Write a PNG: a row for the backbone alone and one for the design, with the roll-out and every head of one block.

    Args:
        found: What is attended to.
        path: The file.
    """
    from matplotlib.figure import Figure

    heads = min(_SHOWN, len(found.heads["design"]))
    figure = Figure(figsize=(1.6 * (heads + 2), 3.8), layout="constrained")
    axes = figure.subplots(2, heads + 2)
    side = len(found.pixels)
    for row, (which, told) in enumerate((("backbone", "backbone alone"), ("design", "with the design"))):
        pictures = [None, found.rollout[which], *found.heads[which][:heads]]
        titles = [told, "roll-out", *(f"block {found.block} head {head}" for head in range(heads))]
        for axis, weights, title in zip(axes[row], pictures, titles, strict=True):
            axis.imshow(found.pixels, extent=(0, side, side, 0))
            if weights is not None:
                axis.imshow(weights, extent=(0, side, side, 0), cmap="inferno", alpha=0.65, interpolation="bilinear")
            axis.set_title(title, fontsize=8)
            axis.set_axis_off()
    figure.suptitle(shown(Path(found.image).name), fontsize=9, parse_math=False)
    write_picture(figure, path)
