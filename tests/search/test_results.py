from collections.abc import Callable
from typing import Any

import pytest

from petlas import search as room
from petlas.errors import UserError
from petlas.search.config import RunConfig

pytestmark = pytest.mark.usefixtures("some_digits")

Make = Callable[..., RunConfig]


def test_of_several_runs_those_that_stopped_are_named_and_the_others_have_their_results(
    make: Make, training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from petlas.datasets import DataError

    error: Exception = DataError("image 7 is cut off")

    def broken(bench: Any, proposal: Any) -> Any:
        if bench.config.name == "b":
            raise error
        return training(bench, proposal)

    monkeypatch.setattr("petlas.search.runners.inline.open_work", broken)
    configs = [make(name=name, search={"trials": 2}) for name in "ab"]
    with pytest.raises(room.SearchesStopped, match=r"(?s)1 of 2 searches .*b: image 7 is cut off") as caught:
        room.search(configs)
    good, bad = caught.value.results
    assert good.best is not None
    assert good.error is None
    assert (bad.best, str(bad.error)) == (None, "image 7 is cut off")
    assert bad.to_dict()["error"] == "image 7 is cut off"
    assert "error" not in good.to_dict()
    assert caught.value.of_user
    with pytest.raises(UserError, match=r"^image 7 is cut off$"):
        room.search(configs[1:])


def test_a_search_without_a_result_says_so(make: Make, training: Any) -> None:
    training.curve = lambda design, epoch: float("nan")
    (result,) = room.search([make(search={"trials": 1})])
    assert (result.best, result.value) == (None, None)
    assert result.to_dict()["best"] is None
