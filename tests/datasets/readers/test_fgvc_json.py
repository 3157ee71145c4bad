import json
from collections.abc import Callable
from pathlib import Path

import pytest

from petlas.datasets import DataError, Task, open_task

Make = Callable[[str], Path]
Draw = Callable[..., Path]


def labels(task: Task, view: str) -> list[str]:
    return [task.classes[target] for target in task.views[view].targets]


def test_classes_are_numbered_once_over_all_files(sample: Make) -> None:
    """Val lacks the first class: numbered for itself, its labels would be those of other classes."""
    task = open_task(str(sample("fgvc_json")))
    assert task.classes == ("Big bird 0", "Big bird 1", "Big bird 2")
    assert labels(task, "val") == ["Big bird 1", "Big bird 2"]
    for view in ("train", "val", "test"):
        held = task.views[view]
        names = [held.source.name(index) for index in held.indices]
        assert [name.split("/")[1][4:].replace("_", " ") for name in names] == labels(task, view)
    assert {name: len(view) for name, view in task.views.items()} == {"train": 6, "val": 2, "trainval": 8, "test": 6}
    assert task.notes == ("val has no image of 1 of 3 classes: Big bird 0",)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("cut", r"train.json: the file must be readable JSON \(.*\); fetch it again"),
        ("list", "train.json: it must be an object of `IMAGE: CLASS`"),
        ("label", r"train.json entry 1: a class must be a number or a name, got \[1\]"),
        ("gone", "train.json entry 1: image images/001.Big_bird_0/a b0.png does not exist"),
        ("both", "test.json entry 1: images/001.Big_bird_0/a b0.png is also in train.json entry 1; an image may not"),
        ("twice", "train.json entry 7: .*a b0.png has label '2' here and '1' in entry 1; give it one label"),
    ],
)
def test_a_damaged_copy_is_told_in_one_line(damage: str, told: str, sample: Make) -> None:
    folder = sample("fgvc_json")
    file = folder / "train.json"
    text, first = file.read_text(), "001.Big_bird_0/a b0.png"
    if damage == "gone":
        (folder / "images" / first).unlink()
    elif damage == "both":
        (folder / "test.json").write_text(json.dumps({first: 1}))
    else:
        again = text.replace("}", f', "{first}": 2}}')
        broken = {"cut": text[:-9], "list": "[]", "label": text.replace(": 1", ": [1]", 1), "twice": again}
        file.write_text(broken[damage])
    with pytest.raises(DataError, match=told) as caught:
        open_task(str(folder))
    assert "\n" not in str(caught.value)


def test_images_may_lie_in_the_root(sample: Make) -> None:
    folder = sample("fgvc_json")
    before = open_task(str(folder)).fingerprint
    for path in (folder / "images").iterdir():
        path.rename(folder / path.name)
    assert open_task(str(folder)).fingerprint == before
