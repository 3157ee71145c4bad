import csv
import io
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


def test_the_best_alone_and_rows_for_a_spreadsheet(petlas: Petlas, write: Write, training: Any) -> None:
    training.curve = lambda design, epoch: sum(p.size or 0 for p in design.placements) / 10
    petlas("search", write())
    everything = petlas("study", "run", "-f", "json").json["trials"]
    assert len(everything) > 2
    top = petlas("study", "run", "--top", 2, "-f", "json").json["trials"]
    ended = sorted((row["val"] for row in everything if row["state"] == "COMPLETE"), reverse=True)
    assert [row["val"] for row in top] == ended[:2]
    rows = list(csv.DictReader(io.StringIO(petlas("study", "run", "--format", "csv").out)))
    assert [int(row["number"]) for row in rows] == [row["number"] for row in everything]
    assert [float(row["val"]) if row["val"] else None for row in rows] == [row["val"] for row in everything]
    assert any("lora" in row["design"] for row in rows)
    assert petlas("study", "run", "--top", 0).status == 2


def test_runs_are_compared_in_one_table(
    petlas: Petlas, write: Write, training: Any, imported: Callable[..., set[str]]
) -> None:
    for name in ("one", "two"):
        assert petlas("search", write(), f"name={name}", "search.trials=2").status == 0
    data = petlas("study", "runs", "-f", "json").json
    assert [row["name"] for row in data["runs"]] == ["one", "two"]
    assert [mean["title"] for mean in data["means"]] == ["mean"]
    assert data["means"][0]["R"] == data["runs"][0]["R"] == 2.0
    table = petlas("study", "one", "two").out
    assert all(text in table for text in ("2 runs", "PPT", "mean"))
    assert len(list(csv.DictReader(io.StringIO(petlas("study", "runs", "-f", "csv").out)))) == 2
    refused = petlas("study", "runs", "--top", 2)
    assert (refused.status, "for one run" in refused.err) == (2, True)
    assert not imported("study", "runs") & {"torch", "timm", "ray", "sklearn"}
