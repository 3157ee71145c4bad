"""Small data sets, drawn in a temporary folder, and a cache of their own for each test."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Draw = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("PETLAS_CACHE", str(folder))
    monkeypatch.delenv("PETLAS_DATA", raising=False)
    return folder


@pytest.fixture(scope="session")
def draw() -> Draw:
    """Writes a small image of random colours, different for each seed."""

    def write(path: Path, seed: int = 0, size: tuple[int, int] = (12, 9)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        colours = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(colours).save(path)
        return path

    return write


@pytest.fixture
def vtab(tmp_path: Path, draw: Draw) -> Path:
    """A data set of 3 classes in the VTAB-1k layout: 6 + 3 + 3 images."""
    root = tmp_path / "data" / "vtab-1k" / "shapes"
    for number in range(12):
        draw(root / f"images/{number:05}.png", number)
    lines = [f"images/{number:05}.png {number % 3}" for number in range(12)]
    parts = {"train800": lines[:6], "val200": lines[6:9], "train800val200": lines[:9], "test": lines[9:]}
    for name, part in parts.items():
        (root / f"{name}.txt").write_text("\n".join(part) + "\n")
    return root


@pytest.fixture(scope="session")
def real_vtab() -> Path:
    folder = Path(os.environ.get("PETLAS_SHARED", "../shared")) / "data/vtab-1k"
    if not folder.is_dir():
        pytest.skip(f"needs the VTAB-1k data sets in {folder.absolute()}")
    return folder
