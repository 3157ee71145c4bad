"""Public-domain clip art as pretraining images: drawings of people, animals, food, buildings, signs, ...

The folder is that of Debian's package `openclipart-png` (8,121 PNG files, released into the public domain):
`apt-get download openclipart-png && dpkg -x openclipart-png*.deb .` gives `usr/share/openclipart/png`.
"""

from __future__ import annotations

from collections import Counter
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from images import CANVAS, SIZE, background
from PIL import Image, ImageOps

VARIANTS = 6

LEAST = 25
"""A category with fewer drawings joins its parent's."""

LARGEST = 100_000
"""Bytes; the few larger files are posters of up to 200 megapixels."""


def _category(path: Path, root: Path, counts: Counter[str]) -> str:
    parts = path.relative_to(root).parts[:-1]
    both = "/".join(parts[:2])
    return both if counts[both] >= LEAST else "/".join(parts[:1])


def _draw(path: Path) -> np.ndarray:
    """Variants (VARIANTS, SIZE, SIZE, 3) of a drawing: centred on white; then mirrored, turned, moved, scaled."""
    with Image.open(path) as image:
        drawing = image.convert("RGBA")
    drawing.thumbnail((CANVAS, CANVAS), Image.Resampling.BOX)
    rng = np.random.default_rng([2, *path.name.encode()])
    variants = [_place(drawing, Image.new("RGB", (CANVAS, CANVAS), "white"), 0.5, 0.5)]
    for variant in range(1, VARIANTS):
        scale = rng.uniform(0.6, 1.0)
        size = (max(1, round(scale * drawing.width)), max(1, round(scale * drawing.height)))
        moved = (ImageOps.mirror(drawing) if variant % 2 else drawing).resize(size, Image.Resampling.BICUBIC)
        moved = moved.rotate(rng.normal(0, 8), Image.Resampling.BICUBIC)
        ground = background(rng) if rng.uniform() < 0.4 else Image.new("RGB", (CANVAS, CANVAS), "white")
        variants.append(_place(moved, ground, *rng.uniform(0, 1, 2)))
    return np.stack(variants)


def _place(drawing: Image.Image, ground: Image.Image, across: float, down: float) -> np.ndarray:
    canvas = ground.convert("RGBA")
    at = (round(across * (canvas.width - drawing.width)), round(down * (canvas.height - drawing.height)))
    canvas.alpha_composite(drawing, at)
    return np.asarray(canvas.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX))


def draw_cliparts(root: Path, workers: int = 2) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """All variants of every drawing (N, SIZE, SIZE, 3) uint8, their categories (N,) int64, and the names."""
    paths = sorted(path for path in root.rglob("*.png") if path.stat().st_size <= LARGEST)
    counts = Counter("/".join(path.relative_to(root).parts[:2]) for path in paths)
    categories = [_category(path, root, counts) for path in paths]
    names = sorted(set(categories))
    labels = np.array([names.index(name) for name in categories], np.int64)
    with Pool(workers) as pool:
        drawn = np.concatenate(pool.map(_draw, paths, chunksize=64))
    return drawn, labels.repeat(VARIANTS), names
