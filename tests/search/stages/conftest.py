"""Searches with an open study, as the driver opens them."""

from collections.abc import Callable
from typing import Any

import pytest

from petlas.search.strategies.base import Search, objectives_of
from petlas.search.study import StudyRecord
from petlas.search.workbench import Workbench

Bench = Callable[..., Workbench]


@pytest.fixture
def searching(bench: Bench) -> Callable[..., Search]:
    """The search of a configuration from where its study stands; what a dead process left running is cut off."""

    def searching(**groups: Any) -> Search:
        found = bench(**groups)
        found.config.folder.mkdir(parents=True, exist_ok=True)
        objectives, maximize = objectives_of(found)
        record = StudyRecord.create(found.config.folder, found.config.storage, objectives, maximize)
        record.recover()
        return Search(found, record)

    return searching
