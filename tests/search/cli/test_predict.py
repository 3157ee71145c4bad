import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petlas.search import api

pytestmark = pytest.mark.usefixtures("some_digits")

Petlas = Callable[..., Any]


def test_names_of_images_and_classes_are_printed_as_they_are(
    petlas: Petlas, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from petlas.search.predict import Prediction

    names = {"a[/red].png": "[bold]cat", "b\udcff.png": ":dog:", "c\nd.png": "x|y"}
    found = [Prediction(image, label, 0.5, [(label, 0.5)]) for image, label in names.items()]
    monkeypatch.setattr(api, "predict", lambda adapter, images, checkpoint, value_range: found)
    adapter = tmp_path / "x.safetensors"
    adapter.touch()
    lines = petlas("predict", adapter, "a.png").out.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["a[/red].png", "[bold]cat", "50.0"],
        ["b\\udcff.png", ":dog:", "50.0"],
        ["c\\nd.png", "x|y", "50.0"],
    ]
    rows = petlas("predict", adapter, "a.png", "-f", "json").json
    assert [(row["image"], row["label"]) for row in rows] == list(names.items())


def test_a_run_without_an_adapter_is_told_with_what_makes_one(petlas: Petlas, tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    for run in ("mine", "runs/mine"):
        result = petlas("predict", run, "x.png")
        assert result.status == 2
        assert "petlas retrain" in result.err
        assert "os error" not in result.err


def test_rows_for_a_spreadsheet(petlas: Petlas, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from petlas.search.predict import Prediction

    found = [Prediction('a,"b".png', "cat", 0.5, [("cat", 0.5)])]
    monkeypatch.setattr(api, "predict", lambda adapter, images, checkpoint, value_range: found)
    (tmp_path / "x.safetensors").touch()
    rows = list(csv.DictReader(io.StringIO(petlas("predict", "x.safetensors", "a.png", "-f", "csv").out)))
    assert rows == [{"image": 'a,"b".png', "label": "cat", "confidence": "0.5"}]
