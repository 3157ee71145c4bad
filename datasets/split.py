"""Sets a stratified share of labelled images aside, the same share for the same seed."""

import numpy as np
import numpy.typing as npt

from petlas.datasets.task import Labels

Indices = npt.NDArray[np.int64]


def stratified_split(labels: Labels, count: int, seed: int) -> tuple[Indices, Indices]:
    """Split indices into (kept, held), both ascending, with `count` held in proportion to the classes.

    A class with two images or more is present on both sides, a class with one image is kept; `count` gives way to that.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    held_sizes = _held_sizes(np.array([len(m) for m in members]), count)
    # RandomState's stream is frozen; Generator's may change with numpy, and with it who is in the test set.
    random = np.random.RandomState(seed)
    held = np.zeros(len(labels), dtype=bool)
    for member, size in zip(members, held_sizes, strict=True):
        held[random.permutation(member)[:size]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def _held_sizes(sizes: Indices, count: int) -> Indices:
    """Largest-remainder shares of `count`, each between 1 and its class's size - 1 (0 for a single image)."""
    high = sizes - 1
    low = np.minimum(1, high)
    count = int(np.clip(count, low.sum(), high.sum()))
    quota = count * sizes / max(1, sizes.sum())
    held: Indices = np.clip(quota.astype(np.int64), low, high)
    while (missing := count - int(held.sum())) != 0:
        step = 1 if missing > 0 else -1
        free = held < high if step > 0 else held > low
        worst = np.argmax(np.where(free, step * (quota - held), -np.inf))
        held[worst] += step
    return held
