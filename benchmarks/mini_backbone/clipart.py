"""Public-domain clip art as pretraining images: drawings of people, animals, food, buildings, signs, ...

The folder is that of Debian's package `openclipart-png` (8,121 PNG files, released into the public domain):
`apt-get download openclipart-png && dpkg -x openclipart-png*.deb .` gives `usr/share/openclipart/png`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from images import CANVAS, SIZE, background
from PIL import Image, ImageOps

VARIANTS = 14

CALM = 6
"""So many variants show a drawing as it is; in the others it is recoloured, cut, turned, and put beside another."""

LEAST = 25
"""A category with fewer drawings joins its parent's."""

LARGEST = 100_000
"""Bytes; the few larger files are posters of up to 200 megapixels."""


def _category(path: Path, root: Path, counts: Counter[str]) -> str:
    parts = path.relative_to(root).parts[:-1]
    both = "/".join(parts[:2])
    return both if counts[both] >= LEAST else "/".join(parts[:1])


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        drawing = image.convert("RGBA")
    drawing.thumbnail((CANVAS, CANVAS), Image.Resampling.BOX)
    return drawing


def _draw(path: Path, others: list[Path], count: int) -> np.ndarray:
    """Variants (count, SIZE, SIZE, 3) of a drawing: on white; then mirrored, turned, moved, scaled; then wilder."""
    drawing = _open(path)
    rng = np.random.default_rng([2, *path.name.encode()])
    variants = [_place(drawing, _white(), 0.5, 0.5)]
    for variant in range(1, CALM):
        scale = rng.uniform(0.6, 1.0)
        moved = _moved(drawing, (scale, scale), bool(variant % 2), rng.normal(0, 8))
        ground = background(rng) if rng.uniform() < 0.4 else _white()
        variants.append(_place(moved, ground, *rng.uniform(0, 1, 2)))
    for _ in range(CALM, count):
        ground = background(rng) if rng.uniform() < 0.5 else _white()
        if rng.uniform() < 0.4:
            other = _open(others[int(rng.integers(len(others)))])
            small = _moved(_recoloured(other, rng), rng.uniform(0.3, 0.8, 2), rng.uniform() < 0.5, rng.normal(0, 20))
            ground = _pasted(small, ground, *rng.uniform(0, 1, 2))
        scale, stretch = rng.uniform(0.5, 1.5), rng.uniform(0.8, 1.0)
        factors = (scale, scale * stretch) if rng.uniform() < 0.5 else (scale * stretch, scale)
        moved = _moved(_recoloured(drawing, rng), factors, rng.uniform() < 0.5, rng.normal(0, 20))
        variants.append(_place(moved, ground, *rng.uniform(0, 1, 2)))
    return np.stack(variants[:count])


def _white() -> Image.Image:
    return Image.new("RGB", (CANVAS, CANVAS), "white")


def _moved(drawing: Image.Image, factors: Sequence[float], mirrored: bool, degrees: float) -> Image.Image:
    across, down = factors
    size = (max(1, round(across * drawing.width)), max(1, round(down * drawing.height)))
    moved = (ImageOps.mirror(drawing) if mirrored else drawing).resize(size, Image.Resampling.BICUBIC)
    return moved.rotate(degrees, Image.Resampling.BICUBIC)


def _recoloured(drawing: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Another hue, mostly, and another saturation and brightness; transparent where it was."""
    turn = int(rng.integers(256)) if rng.uniform() < 0.7 else 0
    hue, saturation, value = drawing.convert("RGB").convert("HSV").split()
    factors = rng.uniform(0.5, 1.5), rng.uniform(0.7, 1.15)
    saturation, value = (
        band.point([min(255, round(level * factor)) for level in range(256)])
        for band, factor in zip((saturation, value), factors, strict=True)
    )
    hue = hue.point([(level + turn) % 256 for level in range(256)])
    recoloured = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    recoloured.putalpha(drawing.getchannel("A"))
    return recoloured


def _pasted(drawing: Image.Image, ground: Image.Image, across: float, down: float) -> Image.Image:
    canvas = ground.convert("RGBA")
    at = (round(across * (canvas.width - drawing.width)), round(down * (canvas.height - drawing.height)))
    layer = Image.new("RGBA", canvas.size)
    layer.paste(drawing, at)  # unlike `alpha_composite`, where a part lies outside
    return Image.alpha_composite(canvas, layer).convert("RGB")


def _place(drawing: Image.Image, ground: Image.Image, across: float, down: float) -> np.ndarray:
    return np.asarray(_pasted(drawing, ground, across, down).resize((SIZE, SIZE), Image.Resampling.BOX))


def draw_cliparts(root: Path, variants: int = VARIANTS, workers: int = 2) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The first variants of every drawing (N, SIZE, SIZE, 3) uint8, their categories (N,) int64, and the names."""
    paths = sorted(path for path in root.rglob("*.png") if path.stat().st_size <= LARGEST)
    counts = Counter("/".join(path.relative_to(root).parts[:2]) for path in paths)
    categories = [_category(path, root, counts) for path in paths]
    names = sorted(set(categories))
    labels = np.array([names.index(name) for name in categories], np.int64)
    with Pool(workers) as pool:
        drawn = np.concatenate(pool.map(partial(_draw, others=paths, count=variants), paths, chunksize=64))
    return drawn, labels.repeat(variants), names
