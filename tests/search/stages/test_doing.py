import math
from collections.abc import Callable

import pytest

from petlas.search.config import RunConfig
from petlas.search.run_folder import opened
from petlas.search.stages import sensitivity as sensitivity_module
from petlas.search.stages.base import SearchStopped
from petlas.search.stages.doing import do_stages
from petlas.search.stages.sensitivity import SensitivityStage
from petlas.search.training import EpochResult
from petlas.search.workbench import Workbench


def test_a_run_that_stops_does_not_take_the_others_along_and_is_told_at_the_end(
    make: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    class Measuring:
        finished = True

        def __init__(self, bench: Workbench) -> None:
            self._name = bench.config.name

        def epoch(self) -> EpochResult:
            done.append(self._name)
            if self._name == "a":
                raise OSError("no space left")
            return EpochResult(1, 0.0, math.nan, 0.1)

    monkeypatch.setattr(sensitivity_module, "Measuring", Measuring)
    monkeypatch.setattr(SensitivityStage, "on_end", lambda *args: None)
    configs = [make(name=name) for name in "ab"]
    for config in configs:
        with opened(config):
            pass
    with pytest.raises(SearchStopped, match="no space left"):
        do_stages([SensitivityStage(Workbench(config)) for config in configs], jobs=2)
    assert done == ["a", "b"]
