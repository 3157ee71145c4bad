from collections.abc import Callable

import pytest

from petlas.search.config import RunConfig
from petlas.search.runners.place import elsewhere, on_cluster


@pytest.mark.parametrize("by", ["setting", "environment"])
def test_work_is_elsewhere_where_a_cluster_is_named_unless_it_is_kept_in_this_process(
    make: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    assert not on_cluster(make(resources={"runner": "ray"}))
    place = {"address": "192.0.2.1:6379"} if by == "setting" else {}
    if by == "environment":
        monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    for runner, far in (("auto", True), ("ray", True), ("inline", False)):
        config = make(resources={"runner": runner} | place)
        assert (on_cluster(config), elsewhere(config)) == (True, far)
