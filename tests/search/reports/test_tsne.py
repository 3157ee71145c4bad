from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petlas.search.reports.tsne import write_tsne
from petlas.search.tsne import Plane


@pytest.mark.parametrize("classes", [1, 3, 40])
def test_points_are_drawn_by_class_whatever_these_are_called(classes: int, tmp_path: Path) -> None:
    labels = [f"$c_{number % classes}" for number in range(80)]
    points = {which: np.random.default_rng(0).normal(size=(80, 2)) for which in ("backbone", "design")}
    parted = {"backbone": None if classes == 1 else 0.1, "design": 0.5}
    write_tsne(Plane("t", "val", labels, labels, points, parted), tmp_path / "plane.png")
    with Image.open(tmp_path / "plane.png") as image:
        assert len(image.convert("RGB").getcolors(10**6)) > 10 * min(classes, 3)
