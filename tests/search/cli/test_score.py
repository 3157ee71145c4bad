import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("some_digits")

Write = Callable[..., Path]
Petlas = Callable[..., Any]
SMALL = {"batches": 1, "batch_size": 8, "rule": "proportional", "budgets": [2_000]}


def test_score_prints_sites_and_designs_and_draws_them(petlas: Petlas, write: Write, tmp_path: Path) -> None:
    files = [str(write(f"{name}.yaml", name=name, sensitivity=SMALL)) for name in ("one", "two")]
    result = petlas("score", *files, "-f", "json")
    assert result.status == 0
    begins = [f"measuring the sensitivity of digits in {tmp_path}/runs/{name}" for name in ("one", "two")]
    assert result.err.splitlines()[:2] == begins
    reports = json.loads(result.out)
    assert [len(report["sites"]) for report in reports] == [6, 6]
    assert [report["designs"][0]["budget"] for report in reports] == [2_000, 2_000]
    assert {path.name for path in (tmp_path / "runs").rglob("sensitivity*")} == {
        "sensitivity.json", "sensitivity.png", "sensitivity.html",
    }  # fmt: skip
    result = petlas("score", files[0])
    assert result.status == 0 and "budget" in result.out and "sensitivity of digits" in result.out


def test_without_matplotlib_there_are_numbers_and_a_hint(
    petlas: Petlas, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "petlas.search.reports.heatmap", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = petlas("score", write(sensitivity=SMALL))
    assert result.status == 0
    assert "pip install 'petlas[report]'" in result.err
    assert not list((tmp_path / "runs").rglob("*.png"))
