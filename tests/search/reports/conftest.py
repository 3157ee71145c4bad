from collections.abc import Callable
from typing import Any

import pytest

from petlas.search.study import TrialRow

DESIGN = {"backbone": "b", "placements": [{"method": "lora", "block": 1, "size": 4}]}


@pytest.fixture
def row() -> Callable[..., TrialRow]:
    """A trial by its number, state and value."""

    def row(number: int, state: str, val: float | None, **more: Any) -> TrialRow:
        base: dict[str, Any] = {
            "stage": "search",
            "design": DESIGN,
            "settings": {},
            "key": str(number),
            "params": 1234,
            "epochs": 2,
            "seconds": 3.4,
            "fold": None,
            "repeat": None,
            "device": None,
        }
        return TrialRow(**base | {"number": number, "state": state, "val": val} | more)

    return row


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """The lines that are printed of some texts and tables."""
    from petlas.search.reports.tables import show

    def printed(*parts: Any) -> list[str]:
        capsys.readouterr()
        show(*parts)
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return printed
