"""Reads any image file as upright 8-bit RGB."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from petlas.datasets.task import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"})


def read_image(path: Path, place: str) -> Image.Image:
    """The image at `path` as RGB; `place` is how an error names it (file, and line of the list if there is one)."""
    try:
        with Image.open(path) as image:
            return to_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{place}: an image may have up to {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels; {error}; "
            "scale the image down or remove it"
        ) from error
    except Exception as error:  # Pillow's decoders raise almost anything on broken data
        raise DataError(
            f"{place}: the image cannot be read ({type(error).__name__}: {error}); replace the file or remove it"
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation, reduce to 8 bits, and lay transparent pixels over white."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F" or upright.mode.startswith("I"):
        upright = _to_8_bits(upright)
    elif upright.has_transparency_data:
        with_alpha = upright.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, "white")
        upright = Image.alpha_composite(white, with_alpha)
    return upright.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Grey values of 16 or 32 bits or floats, scaled by the smallest usual full scale that holds them."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
    peak = float(values.max())
    usual = {"F": (1.0, 255.0, 65535.0), "I": (255.0, 65535.0)}.get(image.mode, (65535.0,))
    scale = next((full for full in usual if peak <= full), peak)
    return Image.fromarray(np.clip(np.rint(values * (255 / scale)), 0, 255).astype(np.uint8))
