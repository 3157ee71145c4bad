import random
from collections.abc import Callable
from pathlib import Path

import pytest

from petlas.datasets import DataError, View, open_task

Make = Callable[[str], Path]
Draw = Callable[..., Path]


def names(view: View) -> list[str]:
    return [view.source.name(index) for index in view.indices]


def test_the_whole_split_is_read_and_classes_have_their_names(sample: Make) -> None:
    task = open_task(str(sample("coop")))
    assert task.classes == ("big cat", "big dog")
    assert {name: len(view) for name, view in task.views.items()} == {"train": 12, "val": 4, "trainval": 16, "test": 4}
    assert names(task.views["test"])[0] == "jpg/cat_16.png"


def test_shots_are_drawn_class_after_class_by_pythons_random(sample: Make) -> None:
    """As CoOp does after `random.seed(seed)`: train first, then at most four of each class of val."""
    folder = str(sample("coop"))
    task = open_task(folder, shots=3, shot_seed=1)
    random.seed(1)
    members = [[f"jpg/{name}_{n}.png" for n in range(first, 12, 2)] for first, name in enumerate(("cat", "dog"))]
    wanted = [name for each in members for name in random.sample(each, 3)]
    assert names(task.views["train"]) == names(task.views["trainval"]) == wanted
    assert len(task.views["val"]) == 4
    assert len(task.views["test"]) == 4
    assert open_task(folder, shots=3, shot_seed=2).fingerprint != task.fingerprint
    assert len(open_task(folder, shots=16).views["train"]) == 12


def test_a_pickle_beside_the_split_is_never_opened(sample: Make) -> None:
    folder = sample("coop")
    (folder / "split_fewshot").mkdir()
    (folder / "split_fewshot/shot_3-seed_1.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    assert len(open_task(str(folder), shots=3, shot_seed=1).views["train"]) == 6


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"train"', '"training"', "split_zhou_Animals.json: train must be a list with an image or more"),
        ('["dog_1.png", 1,', '["dog_1.png", "1",', "Animals.json train entry 2: expected `.PATH, LABEL, CLASS NAME.`"),
        ('["dog_1.png", 1,', '["dog_1.png", 0,', "train entry 2: label 0 is 'big dog' here and 'big cat' before"),
        ('"dog_1.png"', '"dog_99.png"', "train entry 2: image jpg/dog_99.png does not exist"),
        ("]]}", "", "must be readable JSON"),
    ],
)
def test_a_damaged_copy_is_told_in_one_line(old: str, new: str, told: str, sample: Make) -> None:
    file = sample("coop") / "split_zhou_Animals.json"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=told):
        open_task(str(file.parent))


def test_two_splits_are_not_chosen_between(sample: Make) -> None:
    folder = sample("coop")
    (folder / "split_zhou_Other.json").write_text("{}")
    with pytest.raises(DataError, match=r"one split, got split_zhou_Animals.json and split_zhou_Other.json"):
        open_task(str(folder))
