"""Settings of a space: what is chosen together with a design, such as its learning rate."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from petlas.spaces.errors import SpaceError, nearest

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

_STEP = 0.15  # Standard deviation of a step, as a share of the range.
_KEYS = ("low", "high", "log")
_EXAMPLE = "{low: 3e-4, high: 2e-2, log: true}, or a list such as [1e-3, 3e-3]"


@dataclass(frozen=True)
class Setting(ABC):
    """One setting to choose.

    Args:
        name: What it is called in a run's `train`, such as `lr`.
    """

    name: str

    @property
    @abstractmethod
    def ends(self) -> tuple[int, int] | tuple[float, float]:
        """The least and the largest value of its parameter of a trial: whole numbers are indices of values."""

    @property
    @abstractmethod
    def options(self) -> tuple[float, ...] | None:
        """The values there are; None where they cannot be counted."""

    @abstractmethod
    def __contains__(self, value: object) -> bool:
        """Whether the value may be chosen."""

    @abstractmethod
    def parameter(self, value: float) -> int | float:
        """The parameter of a trial that gives a value."""

    @abstractmethod
    def value(self, parameter: float) -> float:
        """The value of a parameter of a trial, clipped to what there is."""

    @abstractmethod
    def place(self, value: float) -> float:
        """Where a value lies between the least, 0, and the largest, 1."""

    @abstractmethod
    def nearest(self, value: float) -> float:
        """The value next to any other that may be chosen."""

    @abstractmethod
    def draw(self, rng: np.random.Generator) -> float:
        """A random value."""

    @abstractmethod
    def step(self, value: float, rng: np.random.Generator) -> float:
        """Another value, as mutation takes it; the same one where there is no other.

        Args:
            value: Where the step starts.
            rng: The source of randomness.
        """

    @abstractmethod
    def suggest(self, trial: BaseTrial) -> float:
        """The value that a trial chooses.

        Raises:
            SpaceError: When a fixed parameter of the trial is not allowed.
        """

    def _refuse(self, parameter: float) -> SpaceError:
        low, high = self.ends
        return SpaceError(f"{self.name}={parameter} is not in the space; choose from {low} to {high}")


@dataclass(frozen=True)
class Range(Setting):
    """A setting that may have any value between two.

    Args:
        name: The setting's name.
        low: The least value.
        high: The largest value.
        log: Whether factors count, not differences: values are drawn log-uniformly.

    Raises:
        SpaceError: When the ends are no finite numbers in rising order, or not above 0 on a log scale.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        faults = _range(self.name, {"low": self.low, "high": self.high, "log": self.log})
        if faults:
            raise SpaceError(faults[0])
        object.__setattr__(self, "low", number(self.low))
        object.__setattr__(self, "high", number(self.high))

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest value."""
        return self.low, self.high

    @property
    def options(self) -> None:
        """There are too many."""
        return None

    def __contains__(self, value: object) -> bool:
        return isinstance(value, float) and self.low <= value <= self.high

    def parameter(self, value: float) -> float:
        """The value itself."""
        return value

    def value(self, parameter: float) -> float:
        """The parameter, within the range."""
        return min(max(float(parameter), self.low), self.high)

    def place(self, value: float) -> float:
        """Where it lies along the scale."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(value) - low) / (high - low)

    def nearest(self, value: float) -> float:
        """The value, within the range."""
        return self.value(value)

    def draw(self, rng: np.random.Generator) -> float:
        """A value drawn uniformly, of the logarithms on a log scale."""
        return self._at(rng.random())

    def step(self, value: float, rng: np.random.Generator) -> float:
        """A normal step along the scale (log-normal on a log scale), reflected at the ends."""
        place = self.place(value) + _STEP * rng.standard_normal()
        place %= 2
        return self._at(min(place, 2 - place))

    def suggest(self, trial: BaseTrial) -> float:
        """The value that a trial chooses, by any sampler."""
        value = trial.suggest_float(self.name, self.low, self.high, log=self.log)
        if value not in self:
            raise self._refuse(value)
        return value

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else value

    def _at(self, place: float) -> float:
        """The value at a place from 0 to 1."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        value = low + place * (high - low)
        return self.value(math.exp(value) if self.log else value)


@dataclass(frozen=True)
class Choices(Setting):
    """A setting that has one of some values; its parameter of a trial is the value's index, since values have order.

    Args:
        name: The setting's name.
        values: The values, increasing.

    Raises:
        SpaceError: When they are no increasing finite numbers.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        faults = _choices(self.name, list(self.values))
        if faults:
            raise SpaceError(faults[0])
        object.__setattr__(self, "values", tuple(map(number, self.values)))

    @property
    def ends(self) -> tuple[int, int]:
        """The first and the last index."""
        return 0, len(self.values) - 1

    @property
    def options(self) -> tuple[float, ...]:
        """The values."""
        return self.values

    def __contains__(self, value: object) -> bool:
        return value in self.values

    def parameter(self, value: float) -> int:
        """The value's index."""
        return self.values.index(value)

    def value(self, parameter: float) -> float:
        """The value at an index."""
        return self.values[min(max(int(parameter), 0), len(self.values) - 1)]

    def place(self, value: float) -> float:
        """Its index by the last one."""
        return self.parameter(value) / max(1, len(self.values) - 1)

    def nearest(self, value: float) -> float:
        """The value with the least difference; of two, the lower."""
        return min(self.values, key=lambda own: abs(own - value))

    def draw(self, rng: np.random.Generator) -> float:
        """A value, each equally likely."""
        return self.values[rng.integers(len(self.values))]

    def step(self, value: float, rng: np.random.Generator) -> float:
        """Another value, each equally likely."""
        others = [other for other in self.values if other != value]
        return others[rng.integers(len(others))] if others else value

    def suggest(self, trial: BaseTrial) -> float:
        """The value whose index a trial chooses, by any sampler."""
        index = trial.suggest_int(self.name, *self.ends)
        if not 0 <= index < len(self.values):
            raise self._refuse(index)
        return self.values[index]


def number(value: Any) -> float:
    """A finite number, also where it was written as text: YAML 1.1 reads `3e-3` so.

    Raises:
        SpaceError: When it is none.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise TypeError
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not math.isfinite(result):
        raise SpaceError(f"must be a finite number such as 3e-3, got {value!r}")
    return result + 0.0  # without a negative zero


def _range(path: str, spec: Mapping[str, Any]) -> list[str]:
    """The faults of a range."""
    faults = [f"{path}.{key}: unknown key; {nearest(key, _KEYS)}" for key in spec if key not in _KEYS]
    faults += [f"{path}.{key}: is missing; write {_EXAMPLE}" for key in ("low", "high") if key not in spec]
    for key in ("low", "high"):
        try:
            number(spec.get(key, 0))
        except SpaceError as error:
            faults.append(f"{path}.{key}: {error}")
    log = spec.get("log", False)
    if not isinstance(log, bool):
        faults.append(f"{path}.log: must be true or false, got {log!r}")
    if faults:
        return faults
    low, high = number(spec["low"]), number(spec["high"])
    if low >= high or math.isclose(low, high):  # a range as narrow as rounding has nothing to draw
        return [f"{path}.high: must be above low={low:g}, got {high:g}; for one value, write [{low:g}]"]
    if log and low <= 0:
        return [f"{path}.low: must be above 0 on a log scale, got {low:g}; raise it, or leave log out"]
    return []


def _choices(path: str, values: list[Any] | tuple[Any, ...]) -> list[str]:
    """The faults of a list of values."""
    if not values:
        return [f"{path}: needs a number at least, got {list(values)!r}; write {_EXAMPLE}"]
    try:
        numbers = [number(value) for value in values]
    except SpaceError as error:
        return [f"{path}: {error} in {list(values)!r}"]
    if numbers != sorted(set(numbers)):
        shown = ", ".join(f"{value:g}" for value in sorted(set(numbers)))
        return [f"{path}: must increase, each number once, got {list(values)!r}; write [{shown}]"]
    return []


def check_settings(data: Any, known: Collection[str] | None = None) -> list[str]:
    """All faults of a space's `settings` at once.

    Args:
        data: What stands under `settings`, as its YAML reads.
        known: The settings there are; None accepts every name.

    Returns:
        One line per fault, such as `settings.lr.high: must be above low=…`; empty for sound settings.
    """
    if not isinstance(data, Mapping):
        return [f"settings: must map names to ranges, such as lr: {_EXAMPLE}; got {data!r}"]
    faults = []
    for name, spec in data.items():
        path = f"settings.{name}"
        if not isinstance(name, str) or not name:
            faults.append(f"{path}: a setting's name must be text, got {name!r}")
        elif known is not None and name not in known:
            faults.append(f"{path}: unknown setting; {nearest(name, known)}")
        if isinstance(spec, Mapping):
            faults += _range(path, spec)
        elif isinstance(spec, list | tuple):
            faults += _choices(path, spec)
        else:
            faults.append(f"{path}: must be {_EXAMPLE}; got {spec!r}")
    return faults


def parse_settings(data: Mapping[str, Any]) -> tuple[Setting, ...]:
    """The settings of plain data that `check_settings` finds sound."""
    return tuple(
        Range(name, spec["low"], spec["high"], spec.get("log", False))
        if isinstance(spec, Mapping)
        else Choices(name, tuple(spec))
        for name, spec in data.items()
    )
