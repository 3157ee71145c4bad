"""Small tasks that are drawn with Pillow: image folders of 64 x 64 pixels, the same on every machine for one seed.

    python benchmarks/portfolio/tasks.py OUT

`DRAWN` is what the portfolio is made of; `HELD_OUT` is for judging a search whose portfolio has not seen it.
"""

from __future__ import annotations

import argparse
import colorsys
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from filelock import FileLock
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from sklearn.datasets import load_sample_images

SIDE = 64
SPLITS = {"train": 300, "val": 100, "test": 400}
"""Images of each split."""

Draw = Callable[[int, np.random.Generator], Image.Image]
"""An image of a class."""


def _colour(rng: np.random.Generator, low: int = 0, high: int = 256) -> tuple[int, int, int]:
    red, green, blue = rng.integers(low, high, 3).tolist()
    return red, green, blue


def _noisy(image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
    pixels = np.asarray(image, np.float64) + strength * rng.standard_normal((SIDE, SIDE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _blank(rng: np.random.Generator) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), _colour(rng, 0, 110))


def shapes(label: int, rng: np.random.Generator) -> Image.Image:
    """Which regular shape: 3 to 6 corners, a star of as many, whatever its place, size, turn and colour."""
    image, corners, star = _blank(rng), 3 + label % 4, label >= 4
    radius, turn = rng.uniform(10, 22), rng.uniform(0, 2 * math.pi)
    x, y = rng.uniform(radius, SIDE - radius, 2)
    points = []
    for i in range(corners * (2 if star else 1)):
        length = radius * (0.4 if star and i % 2 else 1.0)
        angle = turn + 2 * math.pi * i / (corners * (2 if star else 1))
        points.append((x + length * math.cos(angle), y + length * math.sin(angle)))
    ImageDraw.Draw(image).polygon(points, fill=_colour(rng, 130))
    return _noisy(image, rng, 12)


_FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
_FACES = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral", "cmr10", "cmtt10")


def _text(text: str, face: str, rng: np.random.Generator) -> Image.Image:
    image = _blank(rng)
    font = ImageFont.truetype(str(_FONTS / f"{face}.ttf"), int(rng.integers(22, 40)))
    place = (rng.uniform(14, 46), rng.uniform(18, 46))
    ImageDraw.Draw(image).text(place, text, font=font, fill=_colour(rng, 130), anchor="mm")
    return _noisy(image.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR), rng, 15)


def glyphs(label: int, rng: np.random.Generator) -> Image.Image:
    """Which of ten letters, in one of six typefaces."""
    return _text("aegkmqrtwz"[label], _FACES[rng.integers(len(_FACES))], rng)


def typefaces(label: int, rng: np.random.Generator) -> Image.Image:
    """Which of six typefaces, in one of ten pairs of letters."""
    return _text("".join(rng.choice(list("aegkmqrtwz"), 2)), _FACES[label], rng)


def gratings(label: int, rng: np.random.Generator) -> Image.Image:
    """In which of eight directions a grating runs, under noise."""
    angle, wave = math.pi * label / 8 + rng.normal(0, 0.06), rng.uniform(5, 12)
    y, x = np.mgrid[:SIDE, :SIDE]
    phase = 2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / wave + rng.uniform(0, 2 * math.pi)
    one, two = np.array(_colour(rng)), np.array(_colour(rng))
    share = (0.5 + 0.5 * np.sin(phase))[..., None]
    return _noisy(Image.fromarray((one * share + two * (1 - share)).astype(np.uint8)), rng, 45)


def counts(label: int, rng: np.random.Generator) -> Image.Image:
    """How many discs there are, from 1 to 6; they do not touch."""
    image, placed = _blank(rng), []
    while len(placed) <= label:
        radius = rng.uniform(4, 8)
        x, y = rng.uniform(radius, SIDE - radius, 2)
        if all(math.hypot(x - a, y - b) > radius + r + 2 for a, b, r in placed):
            placed.append((x, y, radius))
            ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=_colour(rng, 130))
    return _noisy(image, rng, 12)


def hues(label: int, rng: np.random.Generator) -> Image.Image:
    """Which of eight hues the larger of two discs has."""
    image = _blank(rng)
    other = (label + int(rng.integers(1, 8))) % 8
    for hue, radius, x in ((label, rng.uniform(11, 15), 18), (other, rng.uniform(6, 9), 47)):
        red, green, blue = colorsys.hsv_to_rgb(hue / 8 + rng.normal(0, 0.015), rng.uniform(0.5, 1), rng.uniform(0.6, 1))
        y = rng.uniform(16, 48)
        colour = (int(255 * red), int(255 * green), int(255 * blue))
        ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return _noisy(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image, rng, 12)


def textures(label: int, rng: np.random.Generator) -> Image.Image:
    """How coarse and how sharp a texture is: three scales, blurred or cut off."""
    noise = Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8))
    scale = (1.0, 2.0, 4.0)[label % 3] * rng.uniform(0.85, 1.15)
    field = np.asarray(noise.filter(ImageFilter.GaussianBlur(scale)), np.float64)
    field = (field - field.mean()) / (field.std() + 1e-6)
    share = (np.clip(0.5 + 0.25 * field, 0, 1) if label < 3 else (field > rng.uniform(-0.3, 0.3)) * 1.0)[..., None]
    one, two = np.array(_colour(rng)), np.array(_colour(rng))
    return _noisy(Image.fromarray((one * share + two * (1 - share)).astype(np.uint8)), rng, 20)


@cache
def _photos() -> list[npt.NDArray[np.uint8]]:
    images: list[npt.NDArray[np.uint8]] = load_sample_images().images
    return images


def pictures(label: int, rng: np.random.Generator) -> Image.Image:
    """Which quarter of which of scikit-learn's two photographs a piece is cut from."""
    photo = Image.fromarray(_photos()[label // 4])
    width, height = photo.width // 2, photo.height // 2
    size = int(rng.integers(40, 90))
    x = (label % 2) * width + int(rng.integers(width - size))
    y = (label % 4 // 2) * height + int(rng.integers(height - size))
    piece = photo.crop((x, y, x + size, y + size)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return _noisy(piece.convert("L").convert("RGB"), rng, 15)


DRAWN: dict[str, tuple[Draw, int]] = {
    "shapes": (shapes, 8),
    "glyphs": (glyphs, 10),
    "gratings": (gratings, 8),
    "hues": (hues, 8),
    "textures": (textures, 6),
    "pictures": (pictures, 8),
}
"""What the portfolio is made of: each with its number of classes."""

HELD_OUT: dict[str, tuple[Draw, int]] = {"counts": (counts, 6), "typefaces": (typefaces, 6)}
"""What it has not seen."""


def write(name: str, root: Path, seed: int = 0, test: int = SPLITS["test"]) -> Path:
    """Draw a task into a folder, unless it is there; of several processes the first does, and the others wait.

    Args:
        name: One of `DRAWN` or `HELD_OUT`.
        root: Where the folder is made.
        seed: Another one draws other images.
        test: Images of the test split; the first of more are the same.
    """
    folder = root / name
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f"{name}.lock"):
        if (folder / ".done").exists():
            return folder
        draw, classes = (DRAWN | HELD_OUT)[name]
        for part, (split, images) in enumerate((SPLITS | {"test": test}).items()):
            for index in range(images):
                label = index % classes
                path = folder / split / f"class{label}" / f"{index:04}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                draw(label, np.random.default_rng([seed, part, index])).save(path)
        (folder / ".done").touch()
        return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    for name in DRAWN | HELD_OUT:
        print(write(name, args.out))


if __name__ == "__main__":
    main()
