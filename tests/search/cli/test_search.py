from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Write = Callable[..., Path]
Petlas = Callable[..., Any]
ROW = {"number", "state", "stage", "design", "settings", "key", "params", "val", "epochs", "seconds"}


def test_a_failing_run_ends_with_status_1(petlas: Petlas, write: Write, training: Any) -> None:
    training.curve = lambda design, epoch: float("nan")
    result = petlas("search", write(search={"trials": 1}))
    assert result.status == 1
    assert "came to its end" in result.err


def test_search_prints_run_best_and_value_and_repeating_it_resumes(petlas: Petlas, write: Write, training: Any) -> None:
    training.curve = lambda design, epoch: sum(p.size or 0 for p in design.placements) / 10
    path = write()
    first = petlas("search", path, "search.trials=3", "--format", "json")
    assert first.status == 0
    assert set(first.json) == {"run", "best", "value"}
    assert ROW <= set(first.json["best"]) <= ROW | {"fold", "device"}
    assert first.json["value"] == first.json["best"]["val"]
    again = petlas("search", path, "search.trials=3", "--format", "json")
    assert (again.status, again.json) == (0, first.json)
    assert len(training.started) == 3
    table = petlas("search", path, "search.trials=5")
    assert table.status == 0
    assert len(training.started) == 5
    assert "COMPLETE" in table.out


def test_several_configurations_are_searched_together(petlas: Petlas, write: Write, training: Any) -> None:
    paths = [write(f"{name}.yaml", name=name) for name in ("a", "b")]
    result = petlas("search", *paths, "search.trials=1", "-f", "json")
    assert [Path(each["run"]).name for each in result.json] == ["a", "b"]


def test_other_settings_are_refused_before_any_search(petlas: Petlas, write: Write, training: Any) -> None:
    a, b = write("a.yaml", name="a"), write("b.yaml", name="b")
    assert petlas("search", b, "search.trials=1").status == 0
    result = petlas("search", a, b, "train.lr=0.5", "search.trials=1")
    assert result.status == 2
    assert "train.lr: 0.001 there, 0.5 now" in result.err
    assert len(training.started) == 1


def test_one_run_given_twice_is_refused_before_any_search(
    petlas: Petlas, write: Write, training: Any, tmp_path: Path
) -> None:
    path = write()
    assert petlas("search", path, path, "search.trials=1").status == 2
    assert not training.started
    assert not (tmp_path / "runs").exists()


def test_a_run_of_an_odd_name_is_searched_shown_and_found(petlas: Petlas, write: Write, training: Any) -> None:
    path = write()
    for name in ("q?1", "x%20y", "[red]x", "a b#"):
        result = petlas("search", path, f"name='{name}'", "search.trials=1")
        assert result.status == 0
        assert f"/{name}: " in result.out
        assert len(petlas("study", f"runs/{name}", "-f", "json").json["trials"]) == 1


def test_a_configuration_of_several_tasks_is_a_run_for_each(
    petlas: Petlas, write: Write, training: Any, tmp_path: Path
) -> None:
    for name in ("reds", "blues"):
        for part, count in (("train", 3), ("val", 2), ("test", 2)):
            for label, shade in (("bright", 200), ("dark", 30)):
                folder = tmp_path / "data" / name / part / label
                folder.mkdir(parents=True)
                for index in range(count):
                    image = Image.new("RGB", (32, 32), (shade + index, shade, 10 * len(part) + len(name)))
                    image.save(folder / f"{index}.png")
    path = write()
    result = petlas("search", path, "task.name=[data/reds, data/blues, digits]", "search.trials=1", "-f", "json")
    assert result.status == 0
    assert [Path(each["run"]).name for each in result.json] == ["run-reds", "run-blues", "run-digits"]
    lines = [line for line in result.err.splitlines() if "trial   0" in line]
    assert sorted(line.partition(":")[0] for line in lines) == ["run-blues", "run-digits", "run-reds"]


def test_a_run_that_stops_among_others_decides_the_status_and_the_others_are_shown(
    petlas: Petlas, write: Write, training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(bench: Any, proposal: Any) -> Any:
        if bench.config.name == "b":
            raise OSError(28, "No space left on device")
        return training(bench, proposal)

    monkeypatch.setattr("petlas.search.runners.inline.open_work", broken)
    paths = [write(f"{name}.yaml", name=name) for name in "ab"]
    result = petlas("search", *paths, "search.trials=1")
    assert result.status == 2
    assert "petlas: 1 of 2 searches stopped before their end\n" in result.err
    assert "/b: OSError: [Errno 28] No space left on device" in result.err
    assert "COMPLETE" in result.out
    assert [each["best"] is None for each in petlas("search", *paths, "-f", "json").json] == [False, True]


def test_the_report_is_written_behind_every_stage(
    petlas: Petlas, write: Write, training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr("petlas.search.reports.page.write_page", lambda runs: written.append(Path(runs[0]).name))
    path = write(protocol={"folds": 2, "finalists": 1})
    assert petlas("search", path, "search.trials=1", "--report").status == 0
    assert written == ["run"] * 3  # the trials, the folds, and the end


def test_a_report_that_cannot_be_written_ends_no_search(
    petlas: Petlas, write: Write, training: Any, tmp_path: Path
) -> None:
    (tmp_path / "runs/run/report.html").mkdir(parents=True)
    result = petlas("search", write(), "search.trials=1", "--report")
    assert result.status == 0
    assert "the page cannot be written" in result.err
