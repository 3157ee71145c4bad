import sys
from types import ModuleType

import pytest

from petlas.search.reports import sections as room
from petlas.search.reports.study_report import StudyReport


def test_the_sections_are_told_in_their_order_and_one_more_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("toy_section")
    module.section = lambda report: iter([f"{len(report.trials)} trials, says the toy"])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_section", module)
    monkeypatch.setitem(room.SECTIONS, "toy", "toy_section:section")
    told = list(room.sections(StudyReport([], None, [])))
    assert told[-2:] == ["no trial has come to its end yet", "0 trials, says the toy"]
    assert list(room.SECTIONS) == ["trials", "agreement", "folds", "best", "toy"]
