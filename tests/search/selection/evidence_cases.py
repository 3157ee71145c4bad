"""Evidence to draw, for property tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from hypothesis import strategies as st

from petlas.search.selection import Evidence, Measurement
from petlas.search.training.fidelity import Fidelity

EPOCHS = 4
Rows: TypeAlias = list[tuple[str, Fidelity, Measurement]]
Case: TypeAlias = tuple[Rows, dict[str, int]]


def whole(value: float, images: int = 200, seed: int = 0) -> dict[Fidelity, Measurement]:
    """A candidate's value on the selection split after all epochs."""
    return {Fidelity(EPOCHS, seed): Measurement(value, images)}


def folds(*values: float, images: int = 100, seed: int = 0) -> dict[Fidelity, Measurement]:
    """A candidate's values on folds after all epochs."""
    count = len(values)
    return {Fidelity(EPOCHS, seed, i, count): Measurement(value, images) for i, value in enumerate(values)}


def evidence(**measured: Mapping[Fidelity, Measurement]) -> Evidence:
    return Evidence(measured, EPOCHS)


FIDELITIES = (
    *(Fidelity(epochs, seed) for epochs in range(1, EPOCHS + 1) for seed in (0, 1)),
    *(Fidelity(EPOCHS, 0, fold, 3) for fold in range(3)),
)
VALUES = st.integers(0, 8).map(lambda eighths: eighths / 8)  # exact in binary, with many ties
_MEASURED = st.builds(Measurement, VALUES, st.sampled_from([64, 128]))
_ROWS = st.dictionaries(st.tuples(st.sampled_from("abcd"), st.sampled_from(FIDELITIES)), _MEASURED, max_size=24)
_PARAMS = st.lists(st.integers(1, 3), min_size=4, max_size=4)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Rows of evidence, and the parameters of all candidates in the order in which they were tried."""
    rows = [(key, fidelity, measurement) for (key, fidelity), measurement in draw(_ROWS).items()]
    return rows, dict(zip("abcd", draw(_PARAMS), strict=True))
