"""Sets images aside, deals them to folds and draws samples: each balanced by class, and the same for the same seed."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int64]  # (N,)
Targets = npt.NDArray[np.int64] | npt.NDArray[np.bool_]  # (N,) single label, (N, C) multi label

# RandomState's stream is frozen; Generator's may change with numpy, and with it who is in the test set.


def stratified_split(labels: Labels, count: int, seed: int) -> tuple[Indices, Indices]:
    """Split indices into (kept, held), both ascending, with `count` held in proportion to the classes.

    A class with two images or more is present on both sides, a class with one image is kept; `count` gives way to that.

    Args:
        labels: (N,) class of each image.
        count: How many to hold.
        seed: Decides which.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    held_sizes = _held_sizes(np.array([len(m) for m in members]), count)
    random = np.random.RandomState(seed)
    held = np.zeros(len(labels), dtype=bool)
    for member, size in zip(members, held_sizes, strict=True):
        held[random.permutation(member)[:size]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def deal(targets: Targets, shares: Sequence[float], seed: int) -> Indices:
    """Which part each image goes to, (N,), with every class spread over the parts by their shares.

    Iterative stratification (Sechidis et al., 2011): the rarest class first, each of its images to the part that lacks
    most of that class, then to the one that lacks most images. With single labels this is stratification.

    Args:
        targets: (N,) classes or (N, C) whether image n has class c.
        shares: Of each part; they sum to 1.
        seed: Decides which image goes where.
    """
    member = class_members(targets)
    random = np.random.RandomState(seed)
    left = member.sum(axis=0)
    lacked = np.outer(left, shares)
    room = len(member) * np.asarray(shares, dtype=np.float64)
    part = np.full(len(member), -1, dtype=np.int64)
    order = random.permutation(len(member))

    def place(image: int, wanted: npt.NDArray[np.float64]) -> None:
        chosen = np.lexsort((random.permutation(len(room)), -room.round(6), -wanted.round(6)))[0]
        part[image] = chosen
        room[chosen] -= 1
        lacked[member[image], chosen] -= 1
        left[member[image]] -= 1

    while left.any():
        rarest = int(np.argmin(np.where(left > 0, left, np.iinfo(left.dtype).max)))
        for image in order[member[order, rarest] & (part[order] < 0)]:
            place(image, lacked[rarest])
    for image in order[part[order] < 0]:  # those of no class
        place(image, room)
    return part


def even_sample(targets: Targets, count: int, seed: int) -> Indices:
    """Positions of `count` images in shuffled order, every class as often as every other as far as it has images.

    Args:
        targets: (N,) classes or (N, C) whether image n has class c.
        count: How many; all N where there are no more.
        seed: Decides which, and their order.
    """
    member = class_members(targets)
    random = np.random.RandomState(seed)
    groups = [np.flatnonzero(column) for column in (*member.T, ~member.any(axis=1))]
    queues = [iter(random.permutation(group)) for group in groups if len(group)]
    taken = np.zeros(len(member), dtype=bool)
    count = min(count, len(member))
    chosen: list[int] = []
    while len(chosen) < count:
        for turn in random.permutation(len(queues)):
            image = next((image for image in queues[turn] if not taken[image]), None)
            if image is not None and len(chosen) < count:
                taken[image] = True
                chosen.append(image)
    return random.permutation(np.array(chosen, dtype=np.int64))


def class_members(targets: Targets) -> npt.NDArray[np.bool_]:
    """(N, C) whether image n has class c, whichever kind the targets are of."""
    if targets.ndim == 2:
        return targets.astype(bool)
    classes = int(targets.max()) + 1 if len(targets) else 0
    member = np.zeros((len(targets), classes), dtype=bool)
    member[np.arange(len(targets)), targets.astype(np.int64)] = True
    return member


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
