from collections.abc import Callable
from pathlib import Path

import pytest

from petlas.datasets import DataError, View, open_task

Make = Callable[[str], Path]
Draw = Callable[..., Path]


FEW_SHOT = "few-shot: val only chooses between designs; what learns, learns from train alone, in retraining, too"


def names(view: View) -> list[str]:
    return [view.source.name(index) for index in view.indices]


def test_the_list_is_that_of_the_shots_and_the_seed(sample: Make) -> None:
    folder = str(sample("noah"))
    first, other = (open_task(folder, shots=1, shot_seed=seed) for seed in (0, 1))
    assert names(first.views["train"]) == ["images/pets/my cat 0.png", "images/pets/my dog 1.png"]
    assert names(other.views["train"]) == ["images/pets/my cat 2.png", "images/pets/my dog 3.png"]
    assert first.fingerprint != other.fingerprint
    assert first.test_fingerprint == other.test_fingerprint
    assert first.classes == ("class 0", "class 1")
    assert first.notes == (FEW_SHOT,)
    assert names(first.views["trainval"]) == names(first.views["train"])  # val has more images than may be learned from


def test_by_default_it_is_the_most_shots_and_said_so(sample: Make) -> None:
    task = open_task(str(sample("noah")))
    assert len(task.views["train"]) == 4
    assert task.notes == ("train has 2 shots of seed 0; others: task.shots=N", FEW_SHOT)


def test_a_repeated_line_counts_once_and_is_noted(sample: Make) -> None:
    """The published lists of one shot for pets name each of 37 images twice."""
    folder = sample("noah")
    file = folder / "annotations/train_meta.list.num_shot_1.seed_0"
    file.write_text(file.read_text() * 2)
    task = open_task(str(folder), shots=1)
    assert len(task.views["train"]) == 2
    assert task.notes == (
        "train_meta.list.num_shot_1.seed_0: 2 repeated entries are left out "
        "(images/pets/my cat 0.png, images/pets/my dog 1.png)",
        FEW_SHOT,
    )
    file.write_text(file.read_text() + "pets/my cat 0.png 1\n")
    with pytest.raises(DataError, match=r"seed_0 line 5: .*my cat 0.png has label '1' here and '0' in line 1"):
        open_task(str(folder), shots=1)


def test_a_damaged_copy_is_told_in_one_line(sample: Make) -> None:
    folder = sample("noah")
    with pytest.raises(DataError, match=r"no list of 4 shots and seed 0; there are, shots \(seed\): 1 \(0\), 1 \(1\)"):
        open_task(str(folder), shots=4)
    file = folder / "annotations/test_meta.list"
    file.write_text(file.read_text().replace(" 1\n", " one\n"))
    with pytest.raises(DataError, match=r"test_meta.list line 2: label 'one' is not a whole number"):
        open_task(str(folder))
    file.unlink()
    with pytest.raises(DataError, match=r"test_meta.list: the list is missing"):
        open_task(str(folder))


def test_shots_of_data_without_few_shot_splits_are_refused(sample: Make) -> None:
    with pytest.raises(DataError, match=r"task.shots needs few-shot splits \(noah, coop\), and this is of layout vtab"):
        open_task(str(sample("vtab")), shots=2)
