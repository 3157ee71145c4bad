from collections.abc import Callable

import pytest

from petlas.search.config import RunConfig
from petlas.search.run_folder import opened
from petlas.search.stages import sensitivity as sensitivity_module
from petlas.search.stages.base import SearchStopped
from petlas.search.stages.doing import do_stages
from petlas.search.stages.sensitivity import SensitivityStage
from petlas.search.workbench import Workbench


def test_a_run_that_stops_does_not_take_the_others_along_and_is_told_at_the_end(
    make: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def measure(bench: Workbench) -> None:
        done.append(bench.config.name)
        if bench.config.name == "a":
            raise OSError("no space left")

    monkeypatch.setattr(sensitivity_module, "keep_report", measure)
    monkeypatch.setattr(SensitivityStage, "on_end", lambda *args: None)
    configs = [make(name=name) for name in "ab"]
    for config in configs:
        with opened(config):
            pass
    with pytest.raises(SearchStopped, match="no space left"):
        do_stages([SensitivityStage(Workbench(config)) for config in configs], jobs=2)
    assert done == ["a", "b"]
