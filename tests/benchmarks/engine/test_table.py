from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).parents[3] / "benchmarks" / "engine" / "table.py"


@pytest.fixture(scope="module")
def table() -> Any:
    """The module of a script's folder, which is no package."""
    spec = spec_from_file_location("benchmarks_engine_table", PATH)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def row(table: Any) -> Any:
    """A row of a method's step, measured without error."""
    return table.Row("steps", "lora 8", 400.0, 1.10, 0.0, 9, operations=10.0, passes=8.0, kept_mib=90.0)


def test_what_became_slower_or_larger_is_named_with_what_it_was(table: Any, row: Any) -> None:
    assert table.regressions([row], [row]) == []
    slower = replace(row, ms=500.0, ratio=1.2)
    assert table.regressions([slower], [row]) == ["steps: lora 8: 1.200 times the first row, was 1.100"]
    larger = replace(row, operations=12.0, passes=9.0, kept_mib=99.0)
    assert table.regressions([larger], [row]) == [
        "steps: lora 8: operations 12.0, was 10.0",
        "steps: lora 8: passes 9.0, was 8.0",
        "steps: lora 8: kept_mib 99.0, was 90.0",
    ]
    assert table.regressions([row], [slower, larger]) == []  # better than before
    assert table.regressions([replace(row, ms=9e9)], [row]) == []  # another machine may be slower in all rows


def test_noise_is_no_regression_and_neither_is_what_was_not_measured_before(table: Any, row: Any) -> None:
    worse = replace(row, ratio=1.2)
    assert table.regressions([replace(worse, error=0.02)], [replace(row, error=0.02)]) == []
    assert table.regressions([replace(worse, error=0.01)], [replace(row, error=0.01)])
    assert table.regressions([replace(row, ratio=1.13)], [row]) == []  # within the margin
    assert table.regressions([worse], [replace(row, group="others"), replace(row, name="ssf")]) == []
    assert table.regressions([replace(worse, ratio=1.1)], [replace(row, operations=None, kept_mib=None)]) == []


def test_a_table_that_was_written_is_read_again(table: Any, row: Any, tmp_path: Path) -> None:
    table.write([row], {"device": "CPU"}, tmp_path / "new", "cpu")
    assert table.read(tmp_path / "new" / "cpu.json") == [row] and table.read(tmp_path / "none.json") == []
    assert "| lora 8 | 400.00 | 1.100 |" in (tmp_path / "new" / "cpu.md").read_text()


def test_goals_stand_beside_what_was_found(table: Any, row: Any) -> None:
    text = table.markdown(
        [row, replace(row, group="larger", ratio=1.04)], {"device": "CPU"}, {"lora 8": 1.08, "x": 2.0}
    )
    assert "| lora 8 | 1.08 | 1.100 | 1.040 |" in text and "| x |" not in text
