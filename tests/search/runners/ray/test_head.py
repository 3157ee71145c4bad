from collections.abc import Callable

import pytest

from petlas.search.runners.ray import head as head_module
from petlas.search.runners.ray.head import Head, HeadLost


class Clock:
    """Time that goes on by sleeping alone."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(head_module, "time", clock)
    return clock


def head(clock: Clock, is_there: Callable[[float], bool]) -> tuple[Head, list[float]]:
    """A head, and when it was looked for."""
    looks: list[float] = []

    def answers(address: str) -> bool:
        assert address == "1.2.3.4:5"
        looks.append(clock.now)
        return is_there(clock.now)

    return Head("1.2.3.4:5", answers), looks


def test_a_head_that_does_not_come_back_is_lost_before_ray_ends_the_process_for_it(clock: Clock) -> None:
    found, _ = head(clock, lambda now: now < 10)
    assert found.look()
    clock.now = 12
    with pytest.raises(HeadLost, match=r"1\.2\.3\.4:5 does not answer any more; .*repeat the command"):
        found.look()
    assert 20 <= clock.now - 12 < 30


def test_a_head_that_comes_back_was_not_there(clock: Clock) -> None:
    found, _ = head(clock, lambda now: not 10 <= now < 25)
    clock.now = 12
    assert not found.look()
    assert 25 <= clock.now < 26
    assert found.look()


def test_it_is_not_looked_for_all_the_time_but_where_that_matters(clock: Clock) -> None:
    found, looks = head(clock, lambda now: True)
    for clock.now in (0.0, 0.5, 1.0, 2.5, 3.0):
        assert found.look()
    assert looks == [0.0, 0.0, 2.5]
    assert found.look(now=True)
    assert looks == [0.0, 0.0, 2.5, 3.0]


def test_where_nobody_ever_answers_nothing_is_known_of_it(clock: Clock) -> None:
    found, looks = head(clock, lambda now: False)
    clock.now = 100
    assert found.look(now=True)
    assert looks == [0.0]


def test_no_handler_of_faults_takes_it_for_one() -> None:
    """Tune would tidy up first, for which it waits for the head."""
    assert not issubclass(HeadLost, Exception)
