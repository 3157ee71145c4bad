import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

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
