from typing import Any

import pytest

from petlas.search.objectives import Metric
from petlas.search.reports.comparing import RunRow, summaries

ACCURACY = Metric("accuracy", paired=True)


def row(task: str, test: float | None = 0.5, **more: Any) -> RunRow:
    known: dict[str, Any] = {
        "name": task, "task": task, "backbone": "vit", "metric": ACCURACY, "val": 0.6, "error": 0.03, "test": test,
        "test_std": 0.01, "seeds": 3, "params": 10_000, "ppt": None, "R": 6.0, "seconds": 1.0, "chosen": "linear",
    }  # fmt: skip
    return RunRow(**known | more)


def test_runs_have_the_mean_of_all_and_nothing_where_one_is_not_retrained() -> None:
    (mean,) = summaries([row("a", 0.5, R=4.0), row("b", 0.7, R=6.0)])
    assert (mean.title, mean.test, mean.R) == ("mean", pytest.approx(0.6), 5.0)
    (mean,) = summaries([row("a"), row("b", None)])
    assert (mean.val, mean.test) == (pytest.approx(0.6), None)
    assert summaries([row("a"), row("b", metric=Metric("mAP"))]) == []


def test_the_number_of_vtab_is_the_mean_of_the_groups_means() -> None:
    tests = {"cifar100": 0.9, "data/vtab-1k/dtd": 0.7, "eurosat": 0.95, "kitti": 0.4, "dmlab": 0.5, "dsprites_loc": 0.6}
    found = {mean.title: mean.test for mean in summaries([row(task, test) for task, test in tests.items()])}
    groups = {"natural (2)": 0.8, "specialised (1)": 0.95, "structured (3)": 0.5}
    expected = groups | {"mean of groups": 0.75, "mean": 4.05 / 6}
    assert found == {title: pytest.approx(value) for title, value in expected.items()}
    assert [mean.title for mean in summaries([row("cifar"), row("svhn")])] == ["natural (2)", "mean"]
    assert [mean.title for mean in summaries([row("cifar"), row("digits")])] == ["mean"]
