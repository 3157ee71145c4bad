"""What retrained models said of the test images, as it was when these were read: a file for each seed. Torch-free."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from petlas.datasets import DataError
from petlas.datasets.task import View
from petlas.files import write_json

PREDICTIONS = "predictions"
"""Where in a run folder they are kept."""
_PICTURES = f"{PREDICTIONS}/pictures.json"
_FORMAT = 1
_SHOWN = 12
"""How many images are kept as small pictures."""
_PIXELS = 72

Said = npt.NDArray[np.int64] | npt.NDArray[np.bool_]
"""(N,) the class of each image, or (N, K) whether image n is of class k: as a task's views hold targets."""


@dataclass(frozen=True)
class About:
    """Whose predictions they are, of which images.

    Args:
        name: What the candidate is called.
        key: The candidate's.
        seed: With which it was trained.
        test: The fingerprint of the test view: only predictions of the same images compare.
    """

    name: str
    key: str
    seed: int
    test: str


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one model said of every image of a view.

    Args:
        about: Whose they are.
        classes: K names.
        images: N names.
        targets: What each image is.
        said: What the model said that it is.
        sure: (N,) how sure it was of the class that it was surest of.
    """

    about: About
    classes: tuple[str, ...]
    images: tuple[str, ...]
    targets: Said
    said: Said
    sure: npt.NDArray[np.float32]

    @property
    def wrong(self) -> npt.NDArray[np.bool_]:
        """(N,) which images the model is wrong of; of several classes, all must be right."""
        off = np.asarray(self.said != self.targets, np.bool_)
        several: npt.NDArray[np.bool_] = np.logical_or.reduce(off.reshape(len(self.images), -1), axis=1)
        return several

    @property
    def confusion(self) -> npt.NDArray[np.int64] | None:
        """(K, K) how many images of each class, by row, were said to be of each; None where an image has several."""
        if self.targets.ndim != 1:
            return None
        found = np.zeros((len(self.classes), len(self.classes)), np.int64)
        np.add.at(found, (self.targets, self.said), 1)
        return found

    def to_bytes(self) -> bytes:
        """A compressed npz file of plain arrays."""
        head = {"format": _FORMAT, "classes": self.classes, "images": self.images} | asdict(self.about)
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            head=np.frombuffer(json.dumps(head).encode(), np.uint8),
            targets=_small(self.targets),
            said=_small(self.said),
            sure=self.sure.astype(np.float16),
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Predictions:
        """The inverse of `to_bytes`.

        Raises:
            ValueError: When it is no such file.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                head = json.loads(file["head"].tobytes())
                targets, said, sure = (file[name] for name in ("targets", "said", "sure"))
            about = About(*(head[name] for name in ("name", "key", "seed", "test")))
            classes, images = tuple(map(str, head["classes"])), tuple(map(str, head["images"]))
        except (KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"these are no predictions ({error})") from error
        shape = (len(images),) if targets.ndim == 1 else (len(images), len(classes))
        alike = targets.shape == said.shape == shape and targets.dtype == said.dtype and sure.shape == shape[:1]
        if head.get("format") != _FORMAT or not alike:
            raise ValueError("these are no predictions of one kind for every image")
        targets, said = (array if array.dtype == np.bool_ else array.astype(np.int64) for array in (targets, said))
        if targets.ndim == 1 and images and not max(targets.max(), said.max()) < len(classes):
            raise ValueError("these are predictions of classes that have no name")
        return cls(about, classes, images, targets, said, sure.astype(np.float32))


def _small(said: Said) -> npt.NDArray[Any]:
    """The same in as few bytes as there must be."""
    return said if said.dtype == np.bool_ else said.astype(np.uint32)


def predictions_name(key: str, seed: int) -> str:
    """Where in a run folder the predictions of a retrained seed are kept.

    Args:
        key: The candidate's.
        seed: The seed.
    """
    return f"{PREDICTIONS}/{key}-{seed}.npz"


def read_predictions(folder: Path) -> list[Predictions]:
    """All that are kept in a run folder and can be read.

    Args:
        folder: The run's.
    """
    found = []
    for path in sorted((folder / PREDICTIONS).glob("*.npz")):
        try:
            found.append(Predictions.from_bytes(path.read_bytes()))
        except (OSError, ValueError):  # a damaged one must not keep the others from being told
            continue
    return found


def missed_by_all(models: Sequence[Predictions]) -> list[int]:
    """The images that every model is wrong of; those come first of which the first model was surest.

    Args:
        models: Of the same images, one at the least.
    """
    wrong = np.logical_and.reduce([model.wrong for model in models])
    return sorted(map(int, np.flatnonzero(wrong)), key=lambda image: (-models[0].sure[image], image))


def keep_pictures(folder: Path, view: View, fingerprint: str, key: str) -> None:
    """Keep small pictures of the images that no model was right of, for the report; no number is made from them.

    Args:
        folder: The run's.
        view: The test view.
        fingerprint: The view's.
        key: Of the candidate whose surest mistakes come first.
    """
    models = [model for model in read_predictions(folder) if model.about.test == fingerprint]
    models.sort(key=lambda model: (model.about.key != key, model.about.seed))
    pictures: dict[str, str] = {}
    for image in missed_by_all(models)[:_SHOWN] if models else []:
        try:
            picture = view.source.image(int(view.indices[image]))
        except DataError:
            continue
        picture.thumbnail((_PIXELS, _PIXELS))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=85)
        pictures[str(image)] = base64.b64encode(file.getvalue()).decode()
    write_json(folder / _PICTURES, {"test": fingerprint, "pictures": pictures})


def read_pictures(folder: Path, fingerprint: str) -> Mapping[int, bytes]:
    """The small pictures that are kept of a test view, as JPEG files by the images' numbers.

    Args:
        folder: The run's.
        fingerprint: The view's.
    """
    try:
        found = json.loads((folder / _PICTURES).read_text(encoding="utf-8"))
        pictures = found["pictures"] if found["test"] == fingerprint else {}
        return {int(image): base64.b64decode(data, validate=True) for image, data in pictures.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
