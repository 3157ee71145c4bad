import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petlas.search import api
from petlas.search.tsne import Plane

pytestmark = pytest.mark.usefixtures("some_digits")


def test_the_picture_is_told_or_the_points(
    petlas: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    points = {which: np.array([[1, 2], [3, 4]], np.float32) for which in ("backbone", "design")}
    found = Plane("t", "test", ["a", "b"], ["cat", "dog"], points, {"backbone": None, "design": 0.25})
    monkeypatch.setattr(api, "tsne", lambda *args, **kwargs: found)
    (tmp_path / "x.safetensors").touch()
    assert "silhouette of the classes - before, 0.25 after" in petlas("tsne", "x.safetensors", "t").out
    rows = list(csv.DictReader(io.StringIO(petlas("tsne", "x.safetensors", "t", "-f", "csv").out)))
    assert [(row["image"], row["label"], row["design_y"]) for row in rows] == [("a", "cat", "2.0"), ("b", "dog", "4.0")]
    assert petlas("tsne", "x.safetensors", "t", "-f", "json").json["points"][1]["backbone_x"] == 3
    assert Path("tsne.png").suffix == ".png"


def test_a_name_that_is_no_pictures_ends_with_status_2(petlas: Callable[..., Any]) -> None:
    assert petlas("tsne", "x.safetensors", "digits", "--out", "a.pdf").status == 2
