import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from petlas import search as room
from petlas.search.config import RunConfig
from petlas.search.reports.study_report import StudyReport
from petlas.search.run_folder import RunError

pytestmark = pytest.mark.usefixtures("some_digits")

Make = Callable[..., RunConfig]


def test_runs_are_searched_together_and_say_what_they_found(make: Make, training: Any) -> None:
    training.curve = lambda design, epoch: 0.5 + len(design.placements) / 10
    configs = [make(name=name, search={"trials": count}) for name, count in (("a", 2), ("b", 3))]
    results = room.search(configs)
    assert [result.folder for result in results] == [config.folder for config in configs]
    for result, config in zip(results, configs, strict=True):
        assert result.best is not None
        assert result.value == result.best.val == max(row.val for row in room.study(config).trials if row.val)
        data = json.loads(json.dumps(result.to_dict()))
        assert data["run"] == str(config.folder)
        assert (data["best"]["number"], data["value"]) == (result.best.number, result.value)


def test_one_run_twice_is_refused_before_anything_is_searched(make: Make, training: Any) -> None:
    with pytest.raises(RunError, match="given twice"):
        room.search([make(), make()])
    with pytest.raises(RunError, match="given twice"):
        room.score([make(), make()])
    assert training.started == []


def test_a_run_of_other_settings_is_refused_before_the_first_is_searched(make: Make, training: Any) -> None:
    room.search([make(name="b", search={"trials": 1})])
    training.started.clear()
    with pytest.raises(RunError, match=r"train\.lr"):
        room.search([make(name="a"), make(name="b", train={"lr": 0.5})])
    assert training.started == []


def test_a_run_can_be_searched_studied_retrained_and_used(make: Make, tmp_path: Path) -> None:
    config = make(search={"trials": 2}, train={"epochs": 1, "batch_size": 400})
    (found,) = room.search([config])
    assert isinstance(found, room.SearchResult)
    assert found.best is not None
    report = room.study(room.find_run(str(config.folder)))
    assert isinstance(report, StudyReport)
    assert report.best == found.best

    made = room.retrain(config)
    assert made.outcome.val == found.value
    assert made.outcome.design == found.best.design
    assert made.adapter == config.folder / "best" / "adapter.safetensors"
    assert json.loads(json.dumps(made.to_dict()))["adapter"] == str(made.adapter)
    assert "baselines" not in made.to_dict()

    image = tmp_path / "image.png"
    from PIL import Image

    Image.new("RGB", (8, 8), (200, 30, 30)).save(image)
    (prediction,) = room.predict(made.adapter, [image])
    assert prediction.label in {str(digit) for digit in range(10)}

    file = tmp_path / "design.yaml"
    file.write_text(yaml.safe_dump({"placements": [], "settings": {"lr": 1e-2}}))
    other = room.retrain(config, design=file, seeds=2)
    assert (other.outcome.params, other.outcome.settings, other.outcome.seeds) == (0, {"lr": 1e-2}, [0, 1])
    assert other.outcome.val is None


def test_a_run_is_planned_and_scored(make: Make) -> None:
    config = make(strategy="sensitivity", sensitivity={"batches": 1, "batch_size": 20, "budgets": [600, 2000]})
    assert [cost.stage for cost in room.plan(config).stages][-1] == "retrain"
    (report,) = room.score([config])
    assert [allocated.budget for allocated in report.designs] == [600, 2000]
    assert (config.folder / "sensitivity.json").exists()
    (again,) = room.score([config])
    assert again == report


def test_a_run_that_was_never_searched_has_no_study(make: Make) -> None:
    from petlas.search.study import StorageError

    config = make()
    config.folder.mkdir(parents=True)
    with pytest.raises(StorageError, match="petlas search makes it"):
        room.study(config)
