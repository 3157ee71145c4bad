import math

import pytest

from petlas.search.stages.once import Once


def test_it_is_done_once_and_has_no_value() -> None:
    done: list[int] = []
    work = Once(lambda: done.append(1))
    assert not work.finished
    result = work.epoch()
    assert (done, work.finished, result.epoch) == ([1], True, 1)
    assert math.isnan(result.val)
    assert result.seconds >= 0


def test_what_fails_is_not_finished() -> None:
    def act() -> None:
        raise OSError("no space left")

    work = Once(act)
    with pytest.raises(OSError, match="no space left"):
        work.epoch()
    assert not work.finished
