"""Reads any image file as upright 8-bit RGB."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from petlas.datasets.errors import DataError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".gif", ".tif", ".tiff", ".avif"}
    | {".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"}
)

ValueRange = tuple[float, float]  # the values that are black and white in grey images of more than 8 bits

_FULL_16 = 65535.0
_USED_16 = 4095.0  # 16-bit images that stay below are most often of 12 bits or 8, whose white is another
_LFS = b"version https://git-lfs.github.com/"


def read_image(path: Path, place: str, value_range: ValueRange | None = None) -> Image.Image:
    """The image in a file as RGB, upright.

    Args:
        path: The file.
        place: How an error names it (file, and line of the list if there is one).
        value_range: What is black and white in grey images of more than 8 bits; else it must follow from their type.

    Raises:
        DataError: When it cannot be read, or its range is not known.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{place}: the image cannot be read ({error.strerror}); replace the file or remove it"
        ) from error
    return decode_image(data, place, value_range)


def decode_image(data: bytes, place: str, value_range: ValueRange | None = None) -> Image.Image:
    """The image in a file's content as RGB, upright.

    Args:
        data: The content.
        place: How an error names it.
        value_range: As for `read_image`.

    Raises:
        DataError: When it cannot be read, or its range is not known.
    """
    try:
        with Image.open(BytesIO(data)) as image:
            return to_rgb(image, value_range)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{place}: an image may have up to {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels; {error}; "
            "scale the image down or remove it"
        ) from error
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
    except UnidentifiedImageError as error:
        if data.startswith(_LFS):
            reason, cure = "it is a git-lfs pointer to the image", "fetch the images with `git lfs pull`"
        else:
            reason, cure = "the file is empty" if not data else "no known image format", "replace the file or remove it"
        raise DataError(f"{place}: the image cannot be read ({reason}); {cure}") from error
    except Exception as error:  # Pillow's decoders raise almost anything on broken data
        reason = " ".join(str(error).split())
        raise DataError(
            f"{place}: the image cannot be read ({type(error).__name__}: {reason}); replace the file or remove it"
        ) from error


def to_rgb(image: Image.Image, value_range: ValueRange | None = None) -> Image.Image:
    """Apply the EXIF orientation, reduce to 8 bits, and lay transparent pixels over white.

    Args:
        image: Of any mode.
        value_range: What is black and white in an image of more than 8 bits; other images ignore it.

    Raises:
        DataError: When the image has more than 8 bits and its range is not known.
    """
    origin, deep = image.format, any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F" or upright.mode.startswith("I"):
        upright = _to_8_bits(upright, value_range, origin)
    elif upright.has_transparency_data:
        with_alpha = upright.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, "white")
        upright = Image.alpha_composite(white, with_alpha)
    rgb = upright.convert("RGB")
    if deep and image.mode != "I" and not image.mode.startswith("I;") and 0 < _peak(rgb) <= _USED_16 / 256:
        raise DataError(
            f"the image has 16 bits for each colour but uses up to {_peak(rgb)} of 256 steps only, so its white is not "
            "known; scale its values to the full range"
        )
    return rgb


def _peak(image: Image.Image) -> int:
    return max(int(high) for _, high in image.getextrema())  # type: ignore[misc]


def _to_8_bits(image: Image.Image, value_range: ValueRange | None, origin: str | None) -> Image.Image:
    """Grey values of 16 or 32 bits or floats, scaled by one range, whatever this image holds; clipped to it."""
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError("the image holds values that are not numbers (NaN or infinite); write it with finite values")
    low, high = value_range or _range_of_type(image.mode, origin, values)
    if values.min() > high or values.max() < low:
        raise DataError(
            f"task.value_range is [{low:g}, {high:g}], but all values of the image lie outside ({values.min():g} to "
            f"{values.max():g}); correct the range"
        )
    return Image.fromarray(np.clip(np.rint((values - low) * (255 / (high - low))), 0, 255).astype(np.uint8))


def _range_of_type(mode: str, origin: str | None, values: np.ndarray) -> ValueRange:
    """What 16 bits can hold, unless so little of it is used that it is most likely not what is meant."""
    found = f"{values.min():g} to {values.max():g}"
    cure = (
        "give the values that are black and white, the same for all images, as task.value_range=[LOW, HIGH], and to an "
        "adapter as --value-range LOW HIGH"
    )
    if not (mode.startswith("I;16") or (mode == "I" and origin in ("PNG", "PPM"))):
        kind = "floats" if mode == "F" else "32-bit integers"
        raise DataError(f"images of {kind} have no known range of values (this one holds {found}); {cure}")
    if 0 < values.max() <= _USED_16:
        raise DataError(f"the image has 16 bits but uses {found} of 0 to 65535 only, so its white is not known; {cure}")
    return 0.0, _FULL_16
