"""The strategies that a search can follow. To add one: write its file, and add its line here.

Strategies are looked up when they are first used, so that their names come without torch.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from petlas.lazy import look_up

if TYPE_CHECKING:
    from petlas.search.strategies.base import Strategy

STRATEGIES: dict[str, str] = {
    "auto": "petlas.search.strategies.auto:Auto",
    "trials": "petlas.search.strategies.trials:Trials",
    "supernet": "petlas.search.strategies.supernet:SupernetStrategy",
    "sensitivity": "petlas.search.strategies.sensitivity:SensitivityStrategy",
}


@cache
def get_strategy(name: str) -> Strategy:
    """The strategy of that name.

    Raises:
        KeyError: When no strategy has that name.
    """
    strategy: Strategy = look_up(STRATEGIES[name])()
    return strategy


__all__ = ["STRATEGIES", "get_strategy"]
