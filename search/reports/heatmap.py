"""Pictures of sensitivities: blocks against operations, one per task, and a page that compares tasks."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from petlas.files import write_bytes, write_text
from petlas.search.reports.text import shown

if TYPE_CHECKING:
    from petlas.search.sensitivity import SensitivityReport


def heat_map(report: SensitivityReport) -> bytes:
    """A PNG: the share of each operation of each block in the whole sensitivity, on a logarithmic scale.

    Lines part the stages.
    """
    operations = list(dict.fromkeys(operation for site in report.sites for operation in site))
    values = np.array([[site.get(operation, 0.0) for operation in operations] for site in report.sites])
    shares = np.log10(np.maximum(values / max(values.sum(), np.finfo(float).tiny), 1e-6))
    figure = Figure(figsize=(5.5, 0.35 * len(values) + 1.5), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, aspect="auto", cmap="viridis")
    axes.set_xticks(range(len(operations)), operations)
    axes.set_yticks(range(len(values)))
    axes.set_ylabel("block" if len(report.stages) < 2 else "block, stages apart")
    for end in accumulate(report.stages[:-1]):
        axes.axhline(end - 0.5, color="white", linewidth=2)
    axes.set_title(shown(f"{report.task}: {report.backbone}"), fontsize=10, parse_math=False)
    figure.colorbar(image, label="share of the sensitivity, log10")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def write_heat_map(report: SensitivityReport, path: Path) -> None:
    """Write the PNG of one task.

    Args:
        report: Its sensitivity.
        path: The file.
    """
    write_bytes(path, heat_map(report))


def write_comparison(reports: Sequence[SensitivityReport], path: Path) -> None:
    """Write a page with the pictures of several tasks and how alike their sensitivities are, in one file.

    Args:
        reports: One for each task.
        path: The file.
    """
    shares = [np.array([value for site in report.sites for value in site.values()]) for report in reports]
    alike = np.corrcoef([_ranks(share) for share in shares]) if len({len(share) for share in shares}) == 1 else None
    names = [html.escape(shown(report.task)) for report in reports]
    pictures = "\n".join(
        f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(heat_map(report)).decode()}">'
        for name, report in zip(names, reports, strict=True)
    )
    rows = "" if alike is None else _table(names, alike)
    write_text(
        path,
        "<!doctype html>\n<meta charset=utf-8>\n<title>Sensitivity by task</title>\n"
        "<style>body{font:16px sans-serif;margin:2em}img{width:32em}td,th{padding:.2em .8em;text-align:right}</style>\n"
        f"<h1>Sensitivity by task</h1>\n{pictures}\n{rows}",
    )


def _table(names: Sequence[str], alike: np.ndarray) -> str:
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "\n".join(
        f"<tr><th>{name}</th>{''.join(f'<td>{value:.2f}</td>' for value in row)}</tr>"
        for name, row in zip(names, alike, strict=True)
    )
    return f"<h2>Rank correlation of the places</h2>\n<table>\n<tr><th></th>{head}</tr>\n{body}\n</table>\n"


def _ranks(values: np.ndarray) -> np.ndarray:
    return values.argsort().argsort()
