from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from petlas.search.stages import packing
from petlas.search.stages.packing import pack_size
from petlas.search.workbench import Workbench

Bench = Callable[..., Workbench]


def test_it_is_what_the_run_says(bench: Bench) -> None:
    assert pack_size(bench(resources={"pack": 3})) == 3
    assert pack_size(bench()) == 1


@pytest.mark.parametrize(("speed", "size"), [(1.3, 2), (0.8, 1)])
def test_auto_is_on_where_a_pack_makes_more_steps_in_a_second(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, speed: float, size: int
) -> None:
    taken: list[float] = []

    def seconds(action: Callable[[], object], device: Any) -> float:
        if len(taken) < 2:
            action()
        taken.append(1.0)
        return speed if len(taken) % 2 else 1.0

    monkeypatch.setattr(packing, "_seconds", seconds)
    monkeypatch.setitem(packing.MOST, "cpu", 2)
    work = bench(resources={"pack": "auto"}, train={"batch_size": 8})
    with caplog.at_level(logging.INFO, "petlas"):
        assert [pack_size(work), pack_size(work)] == [size, size]
    assert caplog.text.count(f"packs: {'on' if size > 1 else 'off'}, at {speed:.2f} times") == 1
    assert len(taken) == 8


def test_auto_is_off_with_the_reason_where_it_cannot_be_measured(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> float:
        raise MemoryError("too large")

    monkeypatch.setattr(packing, "_throughput", fail)
    with caplog.at_level(logging.INFO, "petlas"):
        assert pack_size(bench(resources={"pack": "auto"})) == 1
    assert "packs: off, as one could not be measured (too large)" in caplog.text
