"""What every section keeps to, whatever a run has and has not."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest

from petlas.search.predictions import Predictions
from petlas.search.reports.page import PAGE_SECTIONS
from petlas.search.reports.page.run import RunView
from petlas.search.selection import Agreement, Pooled
from petlas.search.study import Step
from petlas.spaces import Candidate

EVIL = "<script>alert('x')</script> & $y$"


def section_of(title: str) -> Callable[[RunView], str]:
    module, _, name = PAGE_SECTIONS[title].partition(":")
    section: Callable[[RunView], str] = getattr(import_module(module), name)
    return section


@pytest.mark.parametrize("title", PAGE_SECTIONS)
def test_a_run_without_anything_breaks_no_section(title: str, view: Callable[..., RunView], trial: Any) -> None:
    running = trial(0, None, {})
    running.user_attrs.clear()
    running.intermediate_values.clear()
    assert isinstance(section_of(title)(view(trials=[running], images=None)), str)


@pytest.mark.parametrize("title", PAGE_SECTIONS)
def test_names_are_shown_as_they_are(
    title: str, view: Callable[..., RunView], trial: Any, predictions: Callable[..., Predictions]
) -> None:
    made = {"backbone": "b", "placements": [{"method": "lora", "block": 0, "size": 2, "options": {"targets": EVIL}}]}
    points = tuple((n, n / 10, n / 10) for n in range(3))
    run = view(
        trials=[trial(n, 0.9 + n / 100, made, params={EVIL: n}, settings={"lr": n + 1.0}) for n in range(9)],
        sensitivity={"sites": [{EVIL: 1.0, "q": 0.0}, {EVIL: 2.0}]},
        agreement=Agreement(1.0, 0.5, 1.0, {1: 0.0}, points),
        pooled={"key8": Pooled(0.9, 0.01, 1000)},
        retrained={"design": made, "settings": {}, "test_mean": 0.5, "test_std": 0.0, "seeds": [0]},
        predictions=[predictions([0, 1], [0, 0], key=Candidate.from_dict(made).key, images=(EVIL, EVIL + "2"))],
        pictures={1: b"jpeg"},
        course=[Step(EVIL, 1, 2, 0.5, Candidate.from_dict(made), None, (0.9, float("nan")))],
        log=[f"2026 INFO command: petlas search {EVIL}", f"2026 INFO petlas {EVIL}"],
    )
    config = run.config.model_copy(update={"task": run.config.task.model_copy(update={"name": EVIL})})
    told = section_of(title)(replace(run, config=config))
    assert told
    assert "<script>alert" not in told
    assert "NaN" not in told
