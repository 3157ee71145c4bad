"""Procedural images for pretraining: dead leaves, fractals, textures, icons and stroke glyphs.

No photograph, font or data set is read: an image is a function of its index alone, so the
collection can be regenerated anywhere. All images are drawn at twice their size and reduced,
which gives anti-aliased edges.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from multiprocessing import Pool

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 64
CANVAS = 2 * SIZE
GLYPH_CLASSES = 600

Rng = np.random.Generator
Colour = tuple[int, int, int]


def _colour(rng: Rng) -> Colour:
    """A colour drawn evenly over hue, with saturation and value kept lively."""
    h, s, v = rng.uniform(0, 1), rng.beta(1.2, 1.0), rng.beta(2.0, 1.0)
    r, g, b = colorsys.hsv_to_rgb(h, s, v)
    return int(255 * r), int(255 * g), int(255 * b)


def background(rng: Rng) -> Image.Image:
    """Plain white or black often, else a plain colour or a smooth gradient."""
    kind = rng.uniform()
    if kind < 0.45:
        return Image.new("RGB", (CANVAS, CANVAS), (255, 255, 255) if rng.uniform() < 0.6 else (0, 0, 0))
    if kind < 0.7:
        return Image.new("RGB", (CANVAS, CANVAS), _colour(rng))
    corners = rng.uniform(0, 255, (2, 2, 3)).astype(np.uint8)
    return Image.fromarray(corners).resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)


def _polygon(rng: Rng, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """Vertices of a random regular polygon, star, rectangle, ellipse or blob about (x, y)."""
    kind = rng.integers(5)
    turn = rng.uniform(0, 2 * math.pi)
    if kind == 0:
        n = int(rng.integers(3, 8))
        t, r = np.arange(n) * 2 * math.pi / n, np.full(n, radius)
    elif kind == 1:
        n = 2 * int(rng.integers(4, 8))
        t, r = np.arange(n) * 2 * math.pi / n, np.where(np.arange(n) % 2, radius, radius * rng.uniform(0.3, 0.7))
    elif kind == 2:
        a = rng.uniform(0.3, 1.2)
        t, r = np.array([a, math.pi - a, math.pi + a, -a]), np.full(4, radius)
    else:
        t, r = np.linspace(0, 2 * math.pi, 40, endpoint=False), np.full(40, radius)
        if kind == 4:
            for k in range(2, 6):
                r = r + radius * rng.normal(0, 0.35 / k) * np.cos(k * t + rng.uniform(0, 6.3))
    squash = rng.uniform(0.45, 1.0)
    px, py = r * np.cos(t), squash * r * np.sin(t)
    c, s = math.cos(turn), math.sin(turn)
    return list(zip((x + c * px - s * py).tolist(), (y + s * px + c * py).tolist(), strict=True))


def dead_leaves(rng: Rng) -> Image.Image:
    """Occluding shapes with power-law sizes: the classical model of natural image statistics."""
    image = Image.new("RGB", (CANVAS, CANVAS), _colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(20, 120))):
        radius = 4.0 * rng.uniform(0.02, 1.0) ** -0.6
        x, y = rng.uniform(0, CANVAS, 2)
        draw.polygon(_polygon(rng, x, y, radius), fill=_colour(rng))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2))) if rng.uniform() < 0.3 else image


def fractal(rng: Rng) -> Image.Image:
    """An iterated function system of contracting random affine maps, played by many points at once."""
    maps = int(rng.integers(2, 5))
    linear = np.empty((maps, 2, 2))
    for i in range(maps):
        u, _, v = np.linalg.svd(rng.normal(size=(2, 2)))
        linear[i] = u @ np.diag(np.sort(rng.uniform(0.25, 0.85, 2))[::-1]) @ v
    offset = rng.uniform(-1, 1, (maps, 2))
    points, tint = rng.uniform(-1, 1, (2500, 2)), np.zeros(2500)
    seen, tints = [], []
    for step in range(24):
        pick = rng.integers(0, maps, len(points))
        points = np.einsum("nij,nj->ni", linear[pick], points) + offset[pick]
        tint = 0.5 * (tint + pick / maps)
        if step >= 16:
            seen.append(points)
            tints.append(tint)
    cloud, shade = np.concatenate(seen), np.concatenate(tints)
    low, high = np.quantile(cloud, 0.01, axis=0), np.quantile(cloud, 0.99, axis=0)
    at = ((cloud - low) / np.maximum(high - low, 1e-6) * 0.84 + 0.08) * CANVAS
    at = np.clip(at, 0, CANVAS - 1).astype(int)
    pixels = np.array(background(rng))
    one, two = np.array(_colour(rng), float), np.array(_colour(rng), float)
    pixels[at[:, 1], at[:, 0]] = ((1 - shade[:, None]) * one + shade[:, None] * two).astype(np.uint8)
    return Image.fromarray(pixels)


def texture(rng: Rng) -> Image.Image:
    """1/f noise, a grating, a checkerboard or Voronoi cells, mapped to two or more colours."""
    kind = rng.integers(4)
    yy, xx = np.mgrid[0:CANVAS, 0:CANVAS] / CANVAS
    if kind == 0:
        fx, fy = np.meshgrid(np.fft.fftfreq(CANVAS), np.fft.fftfreq(CANVAS))
        power = np.hypot(fx, fy) + 1.0 / CANVAS
        noise = np.fft.fft2(rng.normal(size=(3, CANVAS, CANVAS))) / power ** rng.uniform(0.7, 2.0)
        field = np.real(np.fft.ifft2(noise))
        field = (field - field.mean((1, 2), keepdims=True)) / field.std((1, 2), keepdims=True)
        tint = np.array(_colour(rng))[:, None, None]
        return Image.fromarray(np.clip(tint + 60 * field, 0, 255).astype(np.uint8).transpose(1, 2, 0))
    turn, waves = rng.uniform(0, math.pi), rng.uniform(2, 14)
    along = math.cos(turn) * xx + math.sin(turn) * yy
    across = math.cos(turn) * yy - math.sin(turn) * xx
    if kind == 1:
        level = 0.5 + 0.5 * np.sin(2 * math.pi * waves * along + rng.uniform(0, 3) * np.sin(6 * across))
    elif kind == 2:
        level = ((np.floor(waves * along) + np.floor(waves * across)) % 2).astype(float)
    else:
        sites = rng.uniform(0, 1, (int(rng.integers(6, 30)), 2))
        nearest = np.argmin((xx[..., None] - sites[:, 0]) ** 2 + (yy[..., None] - sites[:, 1]) ** 2, axis=-1)
        palette = np.array([_colour(rng) for _ in sites], np.uint8)
        return Image.fromarray(palette[nearest])
    one, two = np.array(_colour(rng), float), np.array(_colour(rng), float)
    mixed = one + level[..., None] * (two - one)
    return Image.fromarray(np.clip(mixed + rng.normal(0, 6, mixed.shape), 0, 255).astype(np.uint8))


def icon(rng: Rng) -> Image.Image:
    """A drawn thing: a body of a few outlined parts, often mirror-symmetric, with small details on it."""
    image = background(rng)
    draw = ImageDraw.Draw(image)
    centre = CANVAS / 2 + rng.normal(0, 0.08 * CANVAS, 2)
    scale = CANVAS * rng.uniform(0.15, 0.42)
    palette = [_colour(rng) for _ in range(int(rng.integers(1, 4)))]
    outline = (0, 0, 0) if rng.uniform() < 0.4 else None
    mirrored = rng.uniform() < 0.6
    parts = [(0.0, 0.0, 1.0)] if rng.uniform() < 0.8 else []
    for _ in range(int(rng.integers(0, 6))):
        dx, dy = rng.normal(0, 0.6, 2)
        parts.append((dx, dy, rng.uniform(0.12, 0.6)))
    parts = parts or [(0.0, 0.0, 1.0)]
    for dx, dy, size in parts:
        at = _polygon(rng, dx, dy, size)
        colour = palette[int(rng.integers(len(palette)))]
        for side in (1, -1) if mirrored and dx else (1,):
            path = [(centre[0] + side * scale * px, centre[1] + scale * py) for px, py in at]
            draw.polygon(path, fill=colour, outline=outline, width=3)
    for _ in range(int(rng.integers(0, 4))):
        dx, dy = rng.normal(0, 0.35, 2) * scale
        r = scale * rng.uniform(0.04, 0.16)
        for side in (1, -1) if mirrored else (1,):
            x, y = centre[0] + side * dx, centre[1] + dy
            draw.ellipse((x - r, y - r, x + r, y + r), fill=palette[0] if rng.uniform() < 0.3 else (0, 0, 0))
    return image


def glyph(rng: Rng, kind: int) -> Image.Image:
    """The invented character number `kind`, written once: its strokes bent, slanted, moved and thickened anew."""
    shape = np.random.default_rng([7, kind])
    turn, shear = rng.normal(0, 0.12), rng.normal(0, 0.22)
    stretch = rng.uniform(0.8, 1.15, 2) * CANVAS * rng.uniform(0.26, 0.42)
    matrix = np.array([[math.cos(turn), shear - math.sin(turn)], [math.sin(turn), math.cos(turn)]]) * stretch[:, None]
    centre = CANVAS / 2 + rng.normal(0, 0.05 * CANVAS, 2)
    if rng.uniform() < 0.5:
        paper, ink = (0, 0, 0), (255, 255, 255)
    else:
        paper, ink = ((255, 255, 255), (0, 0, 0)) if rng.uniform() < 0.4 else (_colour(rng), _colour(rng))
    image = Image.new("RGB", (CANVAS, CANVAS), paper)
    draw = ImageDraw.Draw(image)
    width = int(rng.integers(6, 18))
    t = np.linspace(0, 1, 24)[:, None]
    for _ in range(int(shape.integers(1, 4))):
        ends = shape.choice([-1, 1], (4, 2)) * shape.uniform(0.2, 1, (4, 2))
        a, b, c, d = ends + rng.normal(0, 0.08, (4, 2))
        if shape.uniform() < 0.3:
            d = a
        curve = (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * 1.4 * b + 3 * t**2 * (1 - t) * 1.4 * c + t**3 * d
        path = [tuple(p) for p in (curve @ matrix.T + centre).tolist()]
        draw.line(path, fill=ink, width=width, joint="curve")
        for x, y in (path[0], path[-1]):
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=ink)
    return image


SCENES: tuple[Callable[[Rng], Image.Image], ...] = (dead_leaves, fractal, texture, icon, icon, icon)


def draw_image(index: int) -> tuple[np.ndarray, int]:
    """Image `index` as (SIZE, SIZE, 3) uint8, and its glyph class or -1; one image in three is a glyph."""
    rng = np.random.default_rng([1, index])
    label = int(rng.integers(GLYPH_CLASSES)) if index % 3 == 0 else -1
    image = glyph(rng, label) if label >= 0 else SCENES[int(rng.integers(len(SCENES)))](rng)
    small = image.resize((SIZE, SIZE), Image.Resampling.BOX)
    return np.asarray(small), label


def draw_images(count: int, workers: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` images (N, SIZE, SIZE, 3) uint8 and their glyph classes (N,) int64."""
    images, labels = np.empty((count, SIZE, SIZE, 3), np.uint8), np.empty(count, np.int64)
    with Pool(workers) as pool:
        for i, (image, label) in enumerate(pool.imap(draw_image, range(count), chunksize=256)):
            images[i], labels[i] = image, label
    return images, labels
