import subprocess
import sys

import pytest

from petlas.search.strategies import STRATEGIES, get_strategy
from petlas.search.strategies.base import Strategy


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_name_is_of_a_strategy_that_says_what_it_does(name: str) -> None:
    strategy = get_strategy(name)
    assert isinstance(strategy, Strategy)
    assert strategy.summary
    assert get_strategy(name) is strategy


def test_the_names_come_without_torch() -> None:
    code = "import sys, petlas.search.strategies\nprint('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_name_that_is_none_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        get_strategy("guess")
