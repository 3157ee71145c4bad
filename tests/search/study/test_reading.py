from collections.abc import Callable
from pathlib import Path

import pytest

from petlas.petl.design import Design
from petlas.search.study import Ending, Entry, StudyRecord, passes, result_of
from petlas.search.training.fidelity import Fidelity
from petlas.spaces import Candidate

Lora = Callable[..., Design]
WHOLE = 9


@pytest.fixture
def record(tmp_path: Path) -> StudyRecord:
    """The study of a run of nine epochs, on 800 images and 200 more."""
    found = StudyRecord.create(tmp_path)
    found.claim({"epochs": WHOLE, "images": {"train": 800, "val": 200}})
    return found


def run(record: StudyRecord, design: Design, val: float, epochs: int, fold: int | None = None, done: int = 0) -> int:
    fidelity = Fidelity(epochs, 0, fold, None if fold is None else 5)
    number = record.begin(Entry(Candidate(design), fidelity, "halving", len(design.placements)), {}, {}, {})
    record.note_loss(number, 1.0 + number)
    for epoch in range(1, (done or epochs) + 1):
        record.report(number, epoch, val)
    record.finish(number, Ending(done or epochs, val, 0.1, more={"images": 200}))
    return number


def test_a_short_training_is_no_whole_one_but_has_a_result(record: StudyRecord, lora: Lora) -> None:
    short, whole, stopped = run(record, lora(b0=1), 0.7, 3), run(record, lora(b0=1), 0.8, WHOLE), None
    stopped = run(record, lora(b0=2), 0.6, WHOLE, done=3)
    trials = record.trials()
    assert [trials[n].state.name for n in (short, whole, stopped)] == ["PRUNED", "COMPLETE", "PRUNED"]
    assert [result_of(trials[n]) for n in (short, whole, stopped)] == [0.7, 0.8, None]
    assert record.first_losses("halving") == [1.0, 2.0]


def test_a_cost_is_passes_over_images_by_those_of_an_ordinary_training(record: StudyRecord, lora: Lora) -> None:
    numbers = [run(record, lora(b0=1), 0.7, 3), run(record, lora(b0=1), 0.7, 3, fold=1)]
    numbers.append(run(record, lora(b0=2), 0.6, WHOLE, done=2))
    assert [record.cost(record.trials()[n]) for n in numbers] == pytest.approx([1 / 3, 1 / 3, 2 / 9])
    assert passes(9, 800, 200) == pytest.approx(9 * 800 + 9 * 200 / 3)


def test_the_best_is_what_is_believed_to_be_it_among_those_with_the_most_epochs(
    record: StudyRecord, lora: Lora
) -> None:
    for size, value in ((1, 0.9), (2, 0.7), (3, 0.5)):
        run(record, lora(b0=size), value, 3, fold=0)
    for size, value in ((2, 0.80), (3, 0.79)):
        run(record, lora(b0=size), value, WHOLE, fold=1)
    best = record.best()
    assert best is not None
    assert best.user_attrs["design"]["placements"][0]["size"] == 2
    assert best.user_attrs["of_epochs"] == WHOLE
    beliefs = record.beliefs(lambda trial: trial.user_attrs["fold"] == 0)
    assert max(beliefs.keys, key=lambda key: beliefs.of(key)[0]) == lora(b0=1).key


def test_where_no_split_measured_all_the_best_is_the_one_of_which_the_most_is_believed_whoever_has_all_folds(
    record: StudyRecord, lora: Lora
) -> None:
    for size, values in ((1, [0.70] * 5), (2, [0.80] * 4)):
        for fold, value in enumerate(values):
            run(record, lora(b0=size), value, WHOLE, fold)
    best, believed = record.best(), record.believed
    assert best is not None and believed is not None
    assert best.user_attrs["key"] == lora(b0=2).key == believed.ranked(dict.fromkeys(believed.keys, 1))[0]


def test_a_training_that_is_cut_off_hands_on_the_loss_of_its_first_epoch(record: StudyRecord, lora: Lora) -> None:
    entry = Entry(Candidate(lora(b0=1)), Fidelity(3, 0), "portfolio", 1)
    number = record.begin(entry, {}, {}, {})
    record.note_loss(number, 0.25)
    record.report(number, 1, 0.5)
    record.lose(number)
    again = record.begin(entry, {}, {}, {})
    for epoch in (2, 3):
        record.report(again, epoch, 0.6)
    record.finish(again, Ending(3, 0.6, 0.1))
    assert record.first_losses("portfolio") == [0.25]
