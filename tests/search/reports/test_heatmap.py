from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petlas.search.sensitivity import SensitivityReport

heatmap = pytest.importorskip("petlas.search.reports.heatmap")
OPERATIONS = ("norm1", "q", "k", "v", "proj", "norm2", "fc1", "fc2")


def report(task: str, seed: int) -> SensitivityReport:
    rng = np.random.default_rng(seed)
    sites = [dict(zip(OPERATIONS, map(float, rng.random(8)), strict=True)) for _ in range(6)]
    return SensitivityReport(task, "vit", "spt", "random", sites, [], {}, {})


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    heatmap.write_heat_map(report("digits", 0), tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as image:
        assert image.format == "PNG" and min(image.size) > 200


def test_stages_are_parted_by_lines() -> None:
    whole = report("digits", 0)
    parted = [heatmap.heat_map(replace(whole, stages=stages)) for stages in ([6], [1, 5], [3, 3])]
    assert parted[0] == heatmap.heat_map(whole) and len(set(parted)) == 3


def test_a_report_without_any_sensitivity_can_be_drawn() -> None:
    nothing = SensitivityReport("digits", "vit", "spt", "random", [dict.fromkeys(OPERATIONS, 0.0)] * 2, [], {}, {})
    assert heatmap.heat_map(nothing).startswith(b"\x89PNG")


def test_the_page_has_every_task_and_how_alike_they_are(tmp_path: Path) -> None:
    reports = [report("a<b", 0), report("same", 0), report("other", 1)]
    heatmap.write_comparison(reports, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<img") == 3 and "a&lt;b" in page and "a<b" not in page
    assert "<tr><th>a&lt;b</th><td>1.00</td><td>1.00</td>" in page


@pytest.mark.parametrize("task", ["costs $5 and $6", "$\\frac{$", "a\nb", "日本", "<img>"])
def test_a_task_of_any_name_can_be_drawn_and_put_on_the_page(tmp_path: Path, task: str) -> None:
    heatmap.write_comparison([report(task, 0), report("same", 0)], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<img") == 2
