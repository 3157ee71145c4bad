import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from petlas import search as room
from petlas.errors import UserError
from petlas.search.api import SearchResult
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


def test_of_several_runs_those_that_stopped_are_named_and_the_others_have_their_results(
    make: Make, training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from petlas.datasets import DataError

    error: Exception = DataError("image 7 is cut off")

    def broken(bench: Any, proposal: Any) -> Any:
        if bench.config.name == "b":
            raise error
        return training(bench, proposal)

    monkeypatch.setattr("petlas.search.runners.inline.open_work", broken)
    configs = [make(name=name, search={"trials": 2}) for name in "ab"]
    with pytest.raises(room.SearchesStopped, match=r"(?s)1 of 2 searches .*b: image 7 is cut off") as caught:
        room.search(configs)
    good, bad = caught.value.results
    assert good.best is not None
    assert good.error is None
    assert (bad.best, str(bad.error)) == (None, "image 7 is cut off")
    assert bad.to_dict()["error"] == "image 7 is cut off"
    assert "error" not in good.to_dict()
    assert caught.value.of_user
    with pytest.raises(UserError, match=r"^image 7 is cut off$"):
        room.search(configs[1:])


def test_a_search_without_a_result_says_so(make: Make, training: Any) -> None:
    training.curve = lambda design, epoch: float("nan")
    (result,) = room.search([make(search={"trials": 1})])
    assert (result.best, result.value) == (None, None)
    assert result.to_dict()["best"] is None


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
    assert isinstance(found, SearchResult)
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
