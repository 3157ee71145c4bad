"""What is checked before anything is learned: that every image can be read, and that no image is on both sides."""

from collections import defaultdict
from pathlib import Path

from PIL import Image

from petlas.datasets.errors import DataError, shown, some
from petlas.datasets.progress import track
from petlas.datasets.stores import open_store
from petlas.datasets.stores.decoding import decoded
from petlas.datasets.task import Source, Task


def check_task(
    task: Task, size: int, cache_dir: str | Path | None = None, interpolation: str = "bicubic"
) -> tuple[str, ...]:
    """Decode every image of a task into its stores and look for images on both sides; notes on what is odd.

    Args:
        task: Whose images.
        size: As for `open_store`.
        cache_dir: As for `open_store`.
        interpolation: As for `open_store`.

    Raises:
        DataError: When an image cannot be read, the stores cannot be written, or the splits overlap.
    """
    notes = check_overlap(task)
    for view in ("trainval", "test"):
        open_store(task.views[view].source, size, cache_dir, interpolation)
    return notes


def check_images(source: Source) -> None:
    """Decode every image and keep none.

    Raises:
        DataError: When one cannot be read: what is wrong with it, and which others are at fault.
    """
    for _ in track(decoded(source, 1, Image.Resampling.NEAREST), len(source), "checking images"):
        pass


def check_overlap(task: Task) -> tuple[str, ...]:
    """Look for images that are the same in content: refused between test and what is learned from, noted within it.

    Raises:
        DataError: When more test images recur among those learned from than the task tolerates.
    """
    learned, test = task.views["trainval"].source, task.views["test"].source
    places = defaultdict(list)
    for index, content in enumerate(learned.hashes):
        places[content].append(index)
    pairs = [(index, places[content][0]) for index, content in enumerate(test.hashes) if content in places]
    notes = []
    if pairs:
        named = some([f"{test.name(index)} = {learned.name(twin)}" for index, twin in pairs])
        found = f"{len(pairs)} of {len(test)} test images are also learned from"
        if len(pairs) > task.tolerated_overlap * len(test):
            raise DataError(
                f"task {shown(task.name)}: {found} under another name; an image may not be learned from and judged "
                f"on: remove one of the two ({named})"
            )
        notes.append(f"{found} ({named})")
    return (*notes, *_repeats(task, [indices for indices in places.values() if len(indices) > 1]))


def _repeats(task: Task, groups: list[list[int]]) -> tuple[str, ...]:
    """Notes on images that are several times among those learned from, with one label or with different ones."""
    source = task.views["trainval"].source
    labels: dict[int, set[bytes]] = defaultdict(set)
    for view in (task.views[name] for name in ("train", "val", "trainval")):
        for index, target in zip(view.indices, view.targets, strict=True):
            labels[int(index)].add(target.tobytes())
    same: list[str] = []
    different: list[str] = []
    for group in groups:
        agree = len(set().union(*(labels[index] for index in group))) == 1
        (same if agree else different).append(" = ".join(source.name(index) for index in group[:2]))
    notes = []
    for found, how in ((same, "with the same labels"), (different, "with different labels")):
        if found:
            count = "1 image is" if len(found) == 1 else f"{len(found)} images are"
            notes.append(f"among what is learned from, {count} there again {how} ({some(found)})")
    return tuple(notes)
