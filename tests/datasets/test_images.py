import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petlas.datasets.errors import DataError
from petlas.datasets.images import read_image


def pixels(path: Path, value_range: tuple[float, float] | None = None) -> np.ndarray:
    image = read_image(path, str(path), value_range)
    assert image.mode == "RGB"
    return np.asarray(image)


def save(tmp_path: Path, image: Image.Image, suffix: str = "png", **options: object) -> Path:
    image.save(path := tmp_path / f"x.{suffix}", **options)
    return path


def test_rgb_is_untouched(tmp_path: Path) -> None:
    colours = np.random.RandomState(0).randint(0, 256, (5, 7, 3), dtype=np.uint8)
    assert (pixels(save(tmp_path, Image.fromarray(colours))) == colours).all()


def test_greyscale_fills_three_channels(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert (pixels(save(tmp_path, Image.fromarray(grey))) == grey[:, :, None]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_white(tmp_path: Path, mode: str) -> None:
    colour = (0, 0, 0, 51) if mode == "RGBA" else (0, 51)
    assert (pixels(save(tmp_path, Image.new(mode, (2, 2), colour))) == 204).all()


def test_a_palette_becomes_colours_and_its_transparent_entry_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert pixels(save(tmp_path, image)).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    for transparency in (1, b"\xff\x00"):
        path = save(tmp_path, image, transparency=transparency)
        assert pixels(path).tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_keeps_its_range(tmp_path: Path, suffix: str) -> None:
    grey = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    assert pixels(save(tmp_path, Image.fromarray(grey), suffix))[0, :, 0].tolist() == [0, 1, 128, 255]
    dim = np.array([[0, 128, 129, 5000]], dtype=np.uint16)
    assert pixels(save(tmp_path, Image.fromarray(dim), suffix))[0, :, 0].tolist() == [0, 0, 1, 19]
    assert not pixels(save(tmp_path, Image.new("I;16", (2, 2)), suffix)).any()


@pytest.mark.parametrize("peak", [200, 1950, 4095])
def test_the_white_of_16_bits_that_are_hardly_used_is_asked_for(tmp_path: Path, peak: int) -> None:
    path = save(tmp_path, Image.fromarray(np.array([[1, peak]], dtype=np.uint16)))
    with pytest.raises(DataError, match=rf"uses 1 to {peak} of 0 to 65535 only.*task\.value_range=\[LOW, HIGH\]"):
        pixels(path)
    assert pixels(path, (0, 4095))[0, 1, 0] == round(peak / 4095 * 255)
    assert not pixels(path, (0, 65535))[0, 0].any()


def png_16(colours: list[int]) -> bytes:
    """A picture of one pixel with 16 bits a colour, which Pillow reads but does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 1, 1, 16, {3: 2, 4: 6}[len(colours)], 0, 0, 0)
    body = zlib.compress(b"\0" + np.array(colours, dtype=">u2").tobytes())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("alpha", [[], [65535]])
def test_16_bits_a_colour_are_scaled_by_their_type_or_refused(tmp_path: Path, alpha: list[int]) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png_16([65535, 257, 0, *alpha]))
    assert pixels(path)[0, 0].tolist() == [255, 1, 0]
    path.write_bytes(png_16([1950, 257, 0, *alpha]))
    with pytest.raises(DataError, match=r"x\.png: the image has 16 bits for each colour but uses up to 7 of 256"):
        pixels(path)


@pytest.mark.parametrize("kind", ["float32", "int32"])
@pytest.mark.parametrize(
    ("values", "value_range", "expected"),
    [
        ([0, 1, 2], (0, 2), [0, 128, 255]),
        ([0, 50, 250], (0, 255), [0, 50, 250]),
        ([0, 50, 260], (0, 255), [0, 50, 255]),
        ([-1, 0, 3], (-1, 1), [0, 128, 255]),
    ],
)
def test_floats_and_32_bits_are_scaled_by_the_range_that_is_asked_for(
    tmp_path: Path, kind: str, values: list[float], value_range: tuple[float, float], expected: list[int]
) -> None:
    path = save(tmp_path, Image.fromarray(np.array([values], dtype=kind)), "tif")
    with pytest.raises(DataError, match=r"x\.tif: images of .* have no known range .*value_range"):
        pixels(path)
    assert pixels(path, value_range)[0, :, 0].tolist() == expected


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(np.array([[0, np.nan]], dtype=np.float32)), "tif")
    with pytest.raises(DataError, match="values that are not numbers"):
        pixels(path, (0, 1))


def test_a_range_that_holds_nothing_of_an_image_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(np.array([[300, 2000]], dtype=np.uint16)))
    for value_range in ((0, 255), (3000, 4095)):
        with pytest.raises(DataError, match=r"all values of the image lie outside \(300 to 2000\); correct the range"):
            pixels(path, value_range)


def test_images_of_8_bits_do_not_heed_the_range(tmp_path: Path) -> None:
    path = save(tmp_path, Image.new("L", (2, 2), 77))
    assert (pixels(path, (0, 100)) == 77).all()


def test_a_file_that_is_no_image_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    for content, reason in (
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", r"a git-lfs pointer.*git lfs pull"),
        (b"<html>404</html>", "no known image format"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=reason) as caught:
            pixels(path)
        assert "\n" not in str(caught.value)
        assert "object at" not in str(caught.value)


def test_cmyk_and_bilevel_become_rgb(tmp_path: Path) -> None:
    assert (pixels(save(tmp_path, Image.new("1", (3, 3), 1))) == 255).all()
    assert (pixels(save(tmp_path, Image.new("CMYK", (3, 3), (0, 0, 0, 0)), "tif")) == 255).all()


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = save(tmp_path, frames[0], "gif", save_all=True, append_images=frames[1:])
    assert pixels(path)[0, 0].tolist() == [255, 0, 0]


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    colours = np.zeros((2, 4, 3), np.uint8)
    colours[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright = pixels(save(tmp_path, Image.fromarray(colours), exif=exif))
    assert upright.shape == (4, 2, 3)
    assert upright[0, 1].tolist() == [255, 255, 255]


def test_a_broken_image_is_named_with_what_to_do(tmp_path: Path) -> None:
    whole = save(tmp_path, Image.effect_noise((64, 64), 50))
    broken = tmp_path / "cut.png"
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    text = tmp_path / "text.png"
    text.write_text("not an image")
    for path in (broken, text, tmp_path / "missing.png"):
        with pytest.raises(DataError, match=r"list\.txt line 3: the image cannot be read .*; replace"):
            read_image(path, "list.txt line 3")


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, Image.new("RGB", (30, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(DataError, match="up to 800 pixels"):
        read_image(path, str(path))


def test_the_file_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    path = save(folder, Image.new("RGB", (4, 4)))
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    images = [read_image(path, str(path)) for _ in range(20)]
    after = len(list(Path("/proc/self/fd").iterdir())) if before else 0
    assert after <= before + 1
    shutil.rmtree(folder)
    assert images[0].getpixel((0, 0)) == (0, 0, 0)
