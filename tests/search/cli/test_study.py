from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Write = Callable[..., Path]
Petlas = Callable[..., Any]
ROW = {"number", "state", "stage", "design", "settings", "key", "params", "val", "epochs", "seconds"}


def test_study_prints_what_the_contract_says(petlas: Petlas, write: Write, training: Any) -> None:
    def curve(design: Any, epoch: int) -> float:
        sizes = sum(p.size or 0 for p in design.placements)
        return float("nan") if sizes == 3 else sizes / 10

    training.curve = curve
    path = write(train={"epochs": 9})
    petlas("search", path)
    result = petlas("study", "runs/run", "--format", "json")
    assert result.status == 0
    data = result.json
    assert set(data) == {"trials", "best", "pareto"}
    assert all(ROW <= set(row) <= ROW | {"device"} for row in data["trials"] + data["pareto"] + [data["best"]])
    assert {row["state"] for row in data["trials"]} == {"COMPLETE", "PRUNED", "FAIL"}
    assert data["best"]["val"] == 0.4
    assert data["pareto"][-1] == data["best"]
    table = petlas("study", "run")
    assert table.status == 0
    assert "standard error 3.5 points on 200 images" in " ".join(table.out.split())


def test_a_study_is_shown_where_the_data_is_missing(petlas: Petlas, write: Write, training: Any) -> None:
    petlas("search", write(), "search.trials=1")
    path = Path("runs/run/config.yaml")
    data = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(data | {"task": {"name": "gone", "root": None}}))
    result = petlas("study", "run")
    assert result.status == 0
    assert "best: trial 0" in result.out


def test_a_study_is_shown_without_torch(
    petlas: Petlas, write: Write, training: Any, imported: Callable[..., set[str]]
) -> None:
    petlas("search", write(), "search.trials=1")
    for form in ("table", "json"):
        assert not imported("study", "runs/run", "-f", form) & {"torch", "timm", "ray", "sklearn"}
