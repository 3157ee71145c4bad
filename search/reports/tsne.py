"""The picture of features in the plane."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from petlas.search.reports.picture import write_picture
from petlas.search.reports.text import shown

if TYPE_CHECKING:
    from petlas.search.tsne import Plane

_NAMED = 20  # classes that a legend has place for


def write_tsne(found: Plane, path: Path) -> None:
    """Write a PNG: the features of the backbone alone beside those with the design, coloured by class.

    Args:
        found: The points.
        path: The file.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    classes = sorted(set(found.labels))
    colours = colormaps["tab20" if len(classes) <= _NAMED else "hsv"].resampled(max(len(classes), 2))
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axes = figure.subplots(1, 2)
    labels = np.array(found.labels)
    for axis, (which, told) in zip(axes, (("backbone", "backbone alone"), ("design", "with the design")), strict=True):
        for number, name in enumerate(classes):
            place = found.points[which][labels == name]
            axis.scatter(*place.T, s=8, color=colours(number), label=shown(name).replace("$", r"\$"))
        parted = found.silhouette[which]
        axis.set_title(told if parted is None else f"{told}: silhouette {parted:.2f}", fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
    if len(classes) <= _NAMED:
        figure.legend(handles=axes[0].get_legend_handles_labels()[0], loc="outside right center", fontsize=8)
    title = shown(f"{found.task}, {found.view}: {len(found.labels):,} images")
    figure.suptitle(title, fontsize=10, parse_math=False)
    write_picture(figure, path)
