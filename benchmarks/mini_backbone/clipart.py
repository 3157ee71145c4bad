"""Public-domain clip art as pretraining images: drawings of people, animals, food, buildings, signs, ...

The folder is that of Debian's package `openclipart-png` (8,121 PNG files, released into the public domain):
`apt-get download openclipart-png && dpkg -x openclipart-png*.deb .` gives `usr/share/openclipart/png`.
"""

from __future__ import annotations

from collections import Counter
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from images import SIZE
from PIL import Image, ImageOps

LEAST = 25
"""A category with fewer drawings joins its parent's."""

LARGEST = 100_000
"""Bytes; the few larger files are posters of up to 200 megapixels."""


def _category(path: Path, root: Path, counts: Counter[str]) -> str:
    parts = path.relative_to(root).parts[:-1]
    both = "/".join(parts[:2])
    return both if counts[both] >= LEAST else "/".join(parts[:1])


def _draw(path: Path) -> np.ndarray:
    """Two variants (2, SIZE, SIZE, 3) of a drawing on white: centred in a square; and mirrored, moved and scaled."""
    with Image.open(path) as image:
        drawing = image.convert("RGBA")
    drawing.thumbnail((2 * SIZE, 2 * SIZE), Image.Resampling.BOX)
    rng = np.random.default_rng([2, *path.name.encode()])
    scale = rng.uniform(0.75, 1.0)
    size = (max(1, round(scale * drawing.width)), max(1, round(scale * drawing.height)))
    moved = ImageOps.mirror(drawing).resize(size, Image.Resampling.BICUBIC)
    return np.stack([_place(drawing, 0.5, 0.5), _place(moved, *rng.uniform(0, 1, 2))])


def _place(drawing: Image.Image, across: float, down: float) -> np.ndarray:
    canvas = Image.new("RGBA", (2 * SIZE, 2 * SIZE), "white")
    at = (round(across * (canvas.width - drawing.width)), round(down * (canvas.height - drawing.height)))
    canvas.alpha_composite(drawing, at)
    return np.asarray(canvas.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX))


def draw_cliparts(root: Path, workers: int = 2) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Two variants of every drawing (2 N, SIZE, SIZE, 3) uint8, their categories (2 N,) int64, and the names."""
    paths = sorted(path for path in root.rglob("*.png") if path.stat().st_size <= LARGEST)
    counts = Counter("/".join(path.relative_to(root).parts[:2]) for path in paths)
    categories = [_category(path, root, counts) for path in paths]
    names = sorted(set(categories))
    labels = np.array([names.index(name) for name in categories], np.int64)
    with Pool(workers) as pool:
        drawn = np.stack(pool.map(_draw, paths, chunksize=64))
    return drawn.swapaxes(0, 1).reshape(-1, SIZE, SIZE, 3), np.concatenate([labels, labels]), names
