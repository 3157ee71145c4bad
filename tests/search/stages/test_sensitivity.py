import logging
from collections.abc import Callable

import pytest

from petlas.search.runners.inline import opened
from petlas.search.sensitivity import keep_report, kept_report
from petlas.search.stages.base import NOT_BEGUN
from petlas.search.stages.rounds import Rounds, Turns
from petlas.search.stages.sensitivity import SensitivityStage
from petlas.search.workbench import Workbench

FEW = {"sensitivity": {"batches": 1, "batch_size": 20, "budgets": [600]}}


@pytest.fixture
def found(bench: Callable[..., Workbench]) -> Workbench:
    made = bench(**FEW)
    made.config.folder.mkdir(parents=True)
    return made


def test_the_sensitivity_is_measured_by_a_worker_told_and_kept(
    found: Workbench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("petlas"), "propagate", True)
    stage = SensitivityStage(found)
    assert not stage.exhausted()
    with caplog.at_level(logging.INFO, "petlas"), opened([found]) as runner:
        runner.run(Rounds([Turns(found, lambda: iter([stage]))]))
    assert stage.found == kept_report(found) is not None
    assert caplog.text.count("sensitivity of digits in") == 1


def test_what_was_measured_is_not_measured_again(found: Workbench) -> None:
    made = keep_report(found)
    stage = SensitivityStage(found)
    assert stage.exhausted()
    assert stage.found == made


def test_a_measurement_that_fails_stops_the_search(found: Workbench) -> None:
    stage = SensitivityStage(found)
    stage.propose()
    with pytest.raises(RuntimeError, match="sensitivity: ValueError: shapes"):
        stage.on_end(NOT_BEGUN, None, "ValueError: shapes")
    assert stage.found is None
