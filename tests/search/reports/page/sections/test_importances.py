from collections.abc import Callable
from typing import Any

from petlas.search.reports.page.run import RunView
from petlas.search.reports.page.sections.importances import FEWEST, importances, section


def test_the_parameter_that_decides_the_value_comes_first(view: Callable[..., RunView], trial: Any) -> None:
    trials = [trial(n, (n % 4) / 10, {}, params={"lora.0": n % 4, "idle": n % 3}) for n in range(12)]
    found = importances(trials)
    assert next(iter(found)) == "lora.0"
    assert "12 whole trials of stage search" in section(view(trials=trials))
    assert section(view(trials=trials[: FEWEST - 1])) == ""


def test_equal_values_tell_nothing(trial: Any) -> None:
    assert importances([trial(n, 0.5, {}, params={"a": n}) for n in range(9)]) == {}
