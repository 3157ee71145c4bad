import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform

from petlas.datasets.sources import ArraySource
from petlas.datasets.stores.decoding import decoded

Draw = Callable[..., Path]


def test_decoding_keeps_the_order_and_does_not_run_far_ahead() -> None:
    lock, started = threading.Lock(), []

    class Counting(ArraySource):
        def image(self, index: int) -> Image.Image:
            with lock:
                started.append(index)
            return super().image(index)

    grey = np.repeat(np.arange(200, dtype=np.uint8), 4).reshape(200, 2, 2)
    images = decoded(Counting(grey), 3, Image.Resampling.NEAREST)
    first = next(images)
    assert first.shape == (3, 3, 3)
    time.sleep(0.2)  # time enough to decode all of them
    assert len(started) <= 64
    assert [int(image[0, 0, 0]) for image in images] == list(range(1, 200))
    assert sorted(started) == list(range(200))


@pytest.mark.parametrize("crop", [1.0, 0.875, 0.9])
@pytest.mark.parametrize(("height", "width"), [(30, 71), (53, 20), (31, 31), (9, 10)])
def test_cropped_images_are_those_of_timms_evaluation(crop: float, height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    (mine,) = decoded(ArraySource(pixels), 17, Image.Resampling.BICUBIC, crop)
    transform = create_transform(
        (3, 17, 17), interpolation="bicubic", crop_pct=crop, crop_mode="center", use_prefetcher=True
    )
    assert (mine == np.asarray(transform(Image.fromarray(pixels[0])))).all()
