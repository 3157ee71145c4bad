import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petlas.datasets.images import read_image
from petlas.datasets.task import DataError


def pixels(path: Path) -> np.ndarray:
    image = read_image(path, str(path))
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
    dark = np.array([[0, 128, 129, 255]], dtype=np.uint16)
    assert pixels(save(tmp_path, Image.fromarray(dark), suffix))[0, :, 0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 0.5, 1], [0, 128, 255]), ([0, 51, 255], [0, 51, 255]), ([-1, 500000, 1e6], [0, 128, 255])],
)
def test_float_images_are_scaled_by_the_range_they_use(
    tmp_path: Path, values: list[float], expected: list[int]
) -> None:
    path = save(tmp_path, Image.fromarray(np.array([values], dtype=np.float32)), "tif")
    assert pixels(path)[0, :, 0].tolist() == expected


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
