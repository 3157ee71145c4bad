from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_cases import few_images

from petlas.petl import Design, DesignError, Placement
from petlas.search.stages import packed as packed_module
from petlas.search.stages.base import Proposal
from petlas.search.stages.packed import PackedRuns
from petlas.search.stages.train import open_training, whole
from petlas.search.study import SEARCH
from petlas.search.training import EpochResult, Fidelity, PackTraining
from petlas.search.training import prefix as prefix_module
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

Bench = Callable[..., Workbench]
Curves = dict[int, list[tuple[int, float, float]]]


@pytest.fixture
def small(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A run on a few of the images."""
    monkeypatch.setattr(prefix_module, "cache_folder", lambda: tmp_path / "cache")

    def small(name: str) -> Workbench:
        return few_images(bench(name=name, train={"epochs": 2, "batch_size": 10, "amp": "off"}), 20, 10)

    return small


def proposals(work: Workbench) -> list[Proposal]:
    """Two that go together, two others, and one that goes with nobody."""

    def everywhere(method: str) -> list[Placement]:
        return [Placement(method, block, 2) for block in range(6)]

    designs = [
        everywhere("lora"),
        everywhere("vpt"),
        everywhere("adapter"),
        everywhere("vpt"),
        [Placement("full", None)],
    ]
    designs[3] = [*designs[3], Placement("lora", 5, 1)]
    candidates = [Candidate(Design.of(design, work.shape.name)) for design in designs]
    return [Proposal(n, whole(work, candidate, SEARCH), "train") for n, candidate in enumerate(candidates)]


def curves(packed: PackedRuns, numbers: range, most: int = 9) -> Curves:
    """Epochs, losses and values of each, to their end or for some calls."""
    found: Curves = {number: [] for number in numbers}
    left = set(numbers)
    for _ in range(most):
        for number, result in packed.epoch().items() if left else ():
            assert isinstance(result, EpochResult), result
            found[number].append((result.epoch, result.loss, result.val))
            if packed.finished(number):
                packed.drop(number)
                left.discard(number)
    return found


def one_by_one(work: Workbench) -> Curves:
    found: Curves = {}
    for proposal in proposals(work):
        run = open_training(work, proposal)
        results = [run.epoch() for _ in range(2)]
        found[proposal.number] = [(result.epoch, result.loss, result.val) for result in results]
    return found


def assert_close(found: Curves, expected: Curves) -> None:
    for number, curve in expected.items():
        assert found[number] == [pytest.approx(epoch, rel=1e-5, abs=1e-6) for epoch in curve], number


def test_each_trial_gives_what_it_gives_alone_killed_in_between_or_halved(
    small: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The third run loses its first pack in the second epoch, in the middle of it."""
    expected = one_by_one(small("alone"))
    with caplog.at_level(logging.INFO, "petlas"):
        packed = PackedRuns(small("whole"), proposals(small("whole")))
    assert "trials 0, 2; 1, 3; 4" in caplog.text
    assert_close(curves(packed, range(5)), expected)

    first = curves(PackedRuns(small("killed"), proposals(small("killed"))), range(5), most=1)
    again = curves(PackedRuns(small("killed"), proposals(small("killed"))), range(5))
    assert_close({n: [*first[n], *again[n][1:]] for n in first}, expected)
    assert all(first[n] == again[n][:1] for n in first)  # what may not have been written down is measured again

    step, steps = PackTraining.step, []

    def starved(self: PackTraining, picks: Any) -> None:
        steps.append(set(picks))
        if steps.count({"trial0", "trial2"}) == 4:
            raise MemoryError("too large")
        step(self, picks)

    monkeypatch.setattr(PackTraining, "step", starved)
    assert_close(curves(PackedRuns(small("halved"), proposals(small("halved"))), range(5)), expected)
    assert steps.count({"trial0", "trial2"}) == 4


def test_others_join_and_learn_what_they_learn_alone(small: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """One joins where another was stopped, one where nobody is like it, and one that goes with that one."""
    first, prompts, other, more, _ = proposals(small("whole"))
    expected, found = one_by_one(small("whole")), Curves({n: [] for n in range(4)} | {7: []})
    packed = PackedRuns(small("joined"), [first, other])

    def epoch(*joining: Proposal) -> None:
        packed.add(joining)
        for number, result in packed.epoch().items():
            assert isinstance(result, EpochResult), result
            found[number].append((result.epoch, result.loss, result.val))
            if packed.finished(number):
                packed.drop(number)

    with caplog.at_level(logging.INFO, "petlas"):
        epoch()
        packed.drop(0)
        epoch(prompts, replace(first, number=7))
        epoch(more)
        epoch()
    told = [record.message.removeprefix("in one pack each: trials ") for record in caplog.records]
    assert told == ["2, 7; 1", "7; 1, 3"]
    assert_close(found, {n: expected[n] for n in (1, 2, 3)} | {0: expected[0][:1], 7: expected[0]})


def test_where_memory_was_short_those_who_join_make_no_larger_packs(
    small: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    work, step = small("short"), PackTraining.step

    def starved(self: PackTraining, picks: Any) -> None:
        if len(picks) > 2:
            raise MemoryError("too large")
        step(self, picks)

    monkeypatch.setattr(PackTraining, "step", starved)
    entry = proposals(work)[0].tried
    packed = PackedRuns(work, [Proposal(n, replace(entry, fidelity=Fidelity(2, n)), "train") for n in range(4)])
    with caplog.at_level(logging.INFO, "petlas"):
        assert packed.epoch() == {}
        assert set(packed.epoch()) == {0, 1, 2, 3}
        packed.drop(1)
        packed.add([Proposal(n, replace(entry, fidelity=Fidelity(2, n)), "train") for n in (4, 5)])
    assert caplog.messages[-1] == "in one pack each: trials 2, 3; 0, 4; 5"


@pytest.mark.parametrize("told", [True, False])
def test_who_cannot_be_run_beside_others_fails_alone(small: Bench, monkeypatch: pytest.MonkeyPatch, told: bool) -> None:
    """And where it is not to be told who, all go on, each by itself."""
    work, fit = small("run"), packed_module.groups

    def groups(host: Any, names: Any) -> Any:
        if "trial7" in names and (told or len(names) > 1):
            raise MemoryError("too large")
        return fit(host, names)

    monkeypatch.setattr(packed_module, "groups", groups)
    first, _, other, _, _ = proposals(work)
    packed = PackedRuns(work, [first])
    packed.add([replace(first, number=7), other])
    found = packed.epoch()
    assert isinstance(found.pop(7), MemoryError if told else EpochResult)
    assert all(isinstance(result, EpochResult) for result in found.values()) and set(found) == {0, 2}


def test_who_cannot_be_opened_fails_alone_and_costs_are_shared(small: Bench) -> None:
    work = small("run")
    wrong = Proposal(9, whole(work, Candidate(Design.of([], work.shape.name)), SEARCH), "train")
    bad = replace(wrong.tried, candidate=Candidate(Design.of([Placement("lora", 77, 1)], work.shape.name)))
    packed = PackedRuns(work, [*proposals(work)[:2], replace(wrong, entry=bad)])
    found = packed.epoch()
    assert isinstance(found[9], DesignError) and packed.finished(9)
    packed.drop(9)
    seconds = [result.seconds for result in found.values() if isinstance(result, EpochResult)]
    assert len(seconds) == 2 and all(value > 0 for value in seconds)
    assert set(packed.epoch()) == {0, 1}
