"""The whole way with real training: search, retrain with baselines, predict."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from petlas.datasets import open_task
from petlas.search.config import load_config
from petlas.search.run_folder import opened

pytestmark = pytest.mark.usefixtures("some_digits")

Write = Callable[..., Path]
Petlas = Callable[..., Any]


def test_retrain_and_predict_print_what_the_contract_says(petlas: Petlas, write: Write, tmp_path: Path) -> None:
    path = write(search={"trials": 2, "baselines": True}, train={"epochs": 1, "batch_size": 500})
    assert petlas("search", path).status == 0
    result = petlas("retrain", "run", "--seeds", "1", "--baselines", "--format", "json")
    assert result.status == 0
    assert "retraining " in result.err and " in runs/run, with 1 seed\n" in result.err  # before it is silent for long
    data = result.json
    assert {"design", "settings", "params", "test_mean", "test_std", "seeds", "adapter"} <= data.keys()
    assert (data["seeds"], data["test_std"]) == ([0], 0.0)
    assert 0 < data["test_mean"] < 1
    assert len(data["baselines"]) == 2
    study = petlas("study", "run", "-f", "json").json
    assert (data["design"], data["val"]) == (study["best"]["design"], study["best"]["val"])
    assert yaml.safe_load(Path("runs/run/best/design.yaml").read_text()) == data["design"]

    image = tmp_path / "digit [b].png"
    task = open_task("digits")
    task.views["val"].source.image(int(task.views["val"].indices[0])).save(image)
    result = petlas("predict", data["adapter"], image, "-f", "json")
    assert result.status == 0
    (prediction,) = result.json
    assert set(prediction) == {"image", "label", "confidence", "top5"}
    assert prediction["image"] == str(image)
    assert prediction["top5"][0] == [prediction["label"], prediction["confidence"]]
    assert len(prediction["top5"]) == 5
    assert petlas("predict", data["adapter"], image).out.count("digit [b].png") == 1
    missing = petlas("predict", data["adapter"], image, "gone.png")
    assert missing.status == 2
    assert "gone.png" in missing.err
    for run in ("run", "runs/run"):
        assert petlas("predict", run, image, "-f", "json").json == result.json

    linear = tmp_path / "linear.yaml"
    linear.write_text(yaml.safe_dump(data["design"] | {"placements": []}))
    told = petlas("retrain", "run", "--seeds", "1", "--design", linear).out
    assert "retrained linear\n" in told  # the user chose it: whether anything helps was not asked


def test_a_run_that_is_searched_cannot_be_retrained_meanwhile(petlas: Petlas, write: Write, training: Any) -> None:
    path = write()
    petlas("search", path, "search.trials=1")
    with opened(load_config(str(path), ["search.trials=1"])):
        result = petlas("retrain", "run")
    assert result.status == 2
    assert "one process at a time" in result.err
