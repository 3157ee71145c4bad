"""What is kept of a reading of the test split, and what is made of it."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from petlas.datasets import DataError
from petlas.datasets.task import View
from petlas.search.predictions import (
    About,
    Predictions,
    keep_pictures,
    missed_by_all,
    predictions_name,
    read_pictures,
    read_predictions,
)

Made = Callable[..., Predictions]


@pytest.fixture
def made() -> Made:
    """Predictions of three classes."""

    def made(said: list[Any], targets: list[Any], key: str = "key", test: str = "print", **more: Any) -> Predictions:
        images = tuple(f"{n}.png" for n in range(len(said)))
        sure = more.get("sure", np.linspace(0.5, 0.75, len(said)))
        kind = np.array(targets).dtype
        about = About("found", key, more.get("seed", 0), test)
        classes = more.get("classes", ("a", "b", "\udcffc\n"))
        return Predictions(about, classes, images, np.array(targets, kind), np.array(said, kind), np.asarray(sure))

    return made


def test_a_file_gives_back_what_it_was_made_of(made: Made) -> None:
    for one in (made([0, 2, 1], [0, 1, 1]), made([[True, False, True]], [[True, True, True]])):
        again = Predictions.from_bytes(one.to_bytes())
        assert (again.about, again.classes, again.images) == (one.about, one.classes, one.images)
        assert again.targets.tolist() == one.targets.tolist()
        assert again.said.tolist() == one.said.tolist()
        assert again.sure == pytest.approx(one.sure, abs=1e-3)
    assert len(made([0] * 5000, [1] * 5000).to_bytes()) < 40_000


def test_what_is_wrong_and_taken_for_what(made: Made) -> None:
    one = made([0, 2, 1, 2], [0, 1, 1, 1])
    assert one.wrong.tolist() == [False, True, False, True]
    assert one.confusion is not None
    assert one.confusion.tolist() == [[1, 0, 0], [0, 1, 2], [0, 0, 0]]
    several = made([[True, False, False], [True, True, False]], [[True, False, False], [True, False, False]])
    assert several.wrong.tolist() == [False, True]  # one class too many
    assert several.confusion is None


def test_images_that_none_is_right_of_come_with_the_surest_mistakes_first(made: Made) -> None:
    first = made([1, 1, 1, 0], [0, 0, 0, 0], sure=[0.5, 0.9, 0.7, 1.0])
    assert missed_by_all([first, made([2, 2, 0, 0], [0, 0, 0, 0])]) == [1, 0]
    assert missed_by_all([first]) == [1, 2, 0]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"no file",
        lambda data: npz(),
        lambda data: npz(head=b"{}"),
        lambda data: npz(head=json.dumps({"format": 99}).encode()),
    ],
)
def test_a_damaged_file_is_left_out_and_the_others_read(
    made: Made, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    data = made([0, 1], [0, 0]).to_bytes()
    with pytest.raises(ValueError):
        Predictions.from_bytes(change(data))
    (tmp_path / "predictions").mkdir()
    (tmp_path / predictions_name("bad", 0)).write_bytes(change(data))
    (tmp_path / predictions_name("key", 1)).write_bytes(data)
    assert [one.about.key for one in read_predictions(tmp_path)] == ["key"]


def npz(head: bytes = b"", **arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, head=np.frombuffer(head, np.uint8), **arrays)
    return file.getvalue()


def test_numbers_that_do_not_fit_each_other_are_no_predictions(made: Made) -> None:
    with pytest.raises(ValueError, match="one kind for every image"):
        Predictions.from_bytes(made([0, 1], [0, 0], sure=[0.5]).to_bytes())
    with pytest.raises(ValueError, match="classes that have no name"):
        Predictions.from_bytes(made([0, 1], [0, 0], classes=("a",)).to_bytes())


class Pictures:
    """A source of images, the second of which is broken."""

    def __len__(self) -> int:
        return 4

    def image(self, index: int) -> Image.Image:
        if index == 1:
            raise DataError("broken")
        return Image.new("RGB", (400, 200), (index * 80, 0, 0))


def test_pictures_are_kept_of_what_no_model_is_right_of_small_and_as_far_as_they_can_be_read(
    made: Made, tmp_path: Path
) -> None:
    source: Any = Pictures()
    view = View(source, np.array([3, 1, 0, 2]), np.zeros(4, np.int64))
    keep_pictures(tmp_path, view, "print", "key")
    assert read_pictures(tmp_path, "print") == {}  # nothing is known of anyone
    (tmp_path / "predictions").mkdir(exist_ok=True)
    for key, said, test in (("key", [1, 1, 1, 0], "print"), ("b", [1, 2, 0, 1], "print"), ("c", [0] * 4, "other")):
        (tmp_path / predictions_name(key, 0)).write_bytes(made(said, [0] * 4, key, test).to_bytes())
    keep_pictures(tmp_path, view, "print", "key")
    found = read_pictures(tmp_path, "print")
    assert [*found] == [0]  # the second is broken; of other images nothing is told
    picture = Image.open(io.BytesIO(found[0]))
    assert (picture.format, picture.size) == ("JPEG", (72, 36))
    assert abs(picture.getpixel((10, 10))[0] - 240) < 8  # type: ignore[index]
    assert read_pictures(tmp_path, "other") == {}
    (tmp_path / "predictions" / "pictures.json").write_text('{"test": "print", "pictures": {"x": 1}}')
    assert read_pictures(tmp_path, "print") == {}
