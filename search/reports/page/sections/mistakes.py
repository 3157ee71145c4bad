"""What the retrained design gets wrong on test, as it was when test was read."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from petlas.search.predictions import Predictions, missed_by_all
from petlas.search.reports.page.html import heat, paragraph, table, tag, text
from petlas.search.reports.page.run import RunView
from petlas.search.reports.text import percent, shorten

_MATRIX = 20
"""So many classes fit into a matrix that can be read."""
_PAIRS = 10
_CLASSES = 8
_PICTURES = 12
_NAMED = 12
_LETTERS = 24


def section(run: RunView) -> str:
    """The matrix of classes, the worst pairs, the weakest classes, and the images that no design is right of."""
    if run.retrained is None:
        return ""
    own = [one for one in run.predictions if one.about.key == run.retrained_key]
    if not own:
        adapter = run.config.folder / "best" / "adapter.safetensors"
        return paragraph(
            "This run was tested before petlas kept what was said of each test image; "
            f"petlas evaluate {adapter} {run.config.task.name} tells it, and reads the test images once more."
        )
    own = [one for one in own if one.about.test == own[-1].about.test]
    rivals = [one for one in run.predictions if one.about.test == own[0].about.test and one not in own]
    told = _told(own) + (_matrix(own) + _pairs(own) if own[0].targets.ndim == 1 else "")
    return told + _weakest(own) + _missed(run, own, rivals)


def _told(own: Sequence[Predictions]) -> str:
    images, wrong = len(own[0].images), float(np.mean([one.wrong.sum() for one in own]))
    seeds = f", which were read once for each of {len(own)} seeds," if len(own) > 1 else ""
    mean = " on average" if len(own) > 1 else ""
    several = "" if own[0].targets.ndim == 1 else " (one of its classes missing, or one too many)"
    return paragraph(
        f"Of the {images:,} test images{seeds} the retrained design is wrong about {wrong:,.4g}{mean}{several}: "
        f"{percent(wrong / images)} %."
    )


def _confusion(own: Sequence[Predictions]) -> npt.NDArray[np.int64]:
    """(K, K) summed over the seeds."""
    found = [matrix for one in own if (matrix := one.confusion) is not None]
    total: npt.NDArray[np.int64] = np.sum(found, axis=0, dtype=np.int64)
    return total


def _matrix(own: Sequence[Predictions]) -> str:
    """All classes against all, where they are few enough to be read."""
    names = [shorten(name, _LETTERS) for name in own[0].classes]
    if len(names) > _MATRIX:
        return ""
    counts = _confusion(own)
    most = int((counts - np.diag(np.diag(counts))).max()) or 1

    def cell(row: int, column: int) -> tuple[float, str] | None:
        count = int(counts[row, column])
        return (0.0 if row == column else count / most, str(count)) if count else None

    summed = f", summed over {len(own)} seeds" if len(own) > 1 else ""
    return heat(
        f"Confusion matrix{summed}: each row is what images are, each column what they were taken for; so the diagonal "
        "is right. The darker, the more often that mistake was made.",
        names,
        names,
        [[cell(row, column) for column in range(len(names))] for row in range(len(names))],
        corner="is \\ taken for",
        upright=max(map(len, names)) > 3,
    )


def _pairs(own: Sequence[Predictions]) -> str:
    """Which class is taken for which most often."""
    counts, names = _confusion(own), own[0].classes
    wrong = counts - np.diag(np.diag(counts))
    worst = [divmod(int(place), len(names)) for place in np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]]
    rows = [
        (names[is_], names[told], _mean(wrong[is_, told], len(own)), percent(wrong[is_, told] / counts[is_].sum()))
        for is_, told in worst
        if wrong[is_, told]
    ]
    if not rows:
        return ""
    return tag("h3", "Most often confused") + table(("is", "taken for", "images#", "of that class %#"), rows)


def _mean(count: int, seeds: int) -> str:
    return f"{round(count / seeds, 1):g}"


def _weakest(own: Sequence[Predictions]) -> str:
    """The classes of which the fewest images are found."""
    names = own[0].classes
    targets, said = (
        np.array([_mask(values, len(names)) for values in each])
        for each in ([one.targets for one in own], [one.said for one in own])
    )
    right, images, told = ((part).sum(axis=(0, 1)) for part in (targets & said, targets, said))
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, precision = right / images, right / told
    order = [int(k) for k in np.lexsort((precision, recall)) if images[k] and recall[k] < 1][:_CLASSES]
    if not order:
        return ""

    def cells(k: int) -> tuple[str, ...]:
        sure = None if math.isnan(precision[k]) else float(precision[k])
        return names[k], f"{images[k] // len(own):,}", percent(float(recall[k])), percent(sure)

    columns = ("class", "images#", "found %#", "right where it is said %#")
    return tag("h3", "Weakest classes") + table(columns, map(cells, order))


def _mask(values: npt.NDArray[np.generic], classes: int) -> npt.NDArray[np.bool_]:
    """(N, K) whether image n is of class k."""
    if values.dtype == np.bool_:
        return values.astype(np.bool_)
    found: npt.NDArray[np.bool_] = np.arange(classes) == values[:, None]
    return found


def _missed(run: RunView, own: Sequence[Predictions], rivals: Sequence[Predictions]) -> str:
    """The images that every design is wrong of, as far as there are pictures with them."""
    missed, designs = missed_by_all([*own, *rivals]), len({one.about.key for one in (*own, *rivals)})
    trainings = len(own) + len(rivals)
    images = f"{len(missed):,} image{'' if len(missed) == 1 else 's'}"
    if designs == 1:
        title = "The images that it gets wrong"
        told = f"{images}, in each of its {trainings} trainings" if trainings > 1 else images
        told += f"; no other design was tested yet, which petlas retrain {run.config.folder} --baselines does."
    else:
        title = "The images that every design gets wrong"
        told = f"{images} of {len(own[0].images):,}: by {designs} designs in {trainings} trainings."
        told += " Their labels may be worth a look." if missed else ""
    first = own[0]
    shown = [image for image in missed if image in run.pictures][:_PICTURES]
    drawn = "".join(_picture(run.pictures[image], first, image) for image in shown)
    rest = [image for image in missed if image not in shown]
    if rest:
        listed = "; ".join(f"{first.images[i]} ({_names(first, i)})" for i in rest[:_NAMED])
        more = f"; and {len(rest) - _NAMED:,} more" if len(rest) > _NAMED else ""
        drawn += paragraph(f"{'Further ones' if shown else 'They are'}: {listed}{more}.")
    return tag("h3", title) + paragraph(told) + drawn


def _picture(jpeg: bytes, one: Predictions, image: int) -> str:
    source = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    name = one.images[image]
    return (
        f'<figure class="picture"><img src="{source}" alt="{text(name)}">'
        f"<figcaption>{text(_names(one, image))}<br><small>{text(shorten(name, _LETTERS, end=True))}</small>"
        "</figcaption></figure>"
    )


def _names(one: Predictions, image: int) -> str:
    """What an image is, and what it was taken for."""
    is_, told = (_said(one, values[image]) for values in (one.targets, one.said))
    return f"{is_} → {told}"


def _said(one: Predictions, value: npt.NDArray[np.generic]) -> str:
    if value.dtype != np.bool_:
        return shorten(one.classes[int(value)], _LETTERS)
    return shorten(" + ".join(one.classes[int(k)] for k in np.flatnonzero(value)) or "nothing", 2 * _LETTERS)
