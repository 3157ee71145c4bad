from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_plan_says_what_a_search_costs_before_it_starts(
    petlas: Callable[..., Any], write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write(search={"trials": 3})
    result = petlas("plan", path, "-f", "json")
    assert result.status == 0
    assert {"designs", "params", "flops", "R_seconds", "stages", "disk"} <= set(result.json)
    assert result.json["designs"] == 9
    table = petlas("plan", path, write("b.yaml", name="[b]"))
    assert table.status == 0
    assert "run: at most" in table.out
    assert "[b]: at most" in table.out
    assert not (tmp_path / "runs").exists()
