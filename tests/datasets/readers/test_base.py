"""What holds for every reader, one that is added from outside as well; and what readers share."""

import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from petlas.datasets import FileSource, check_task, list_tasks, open_store, open_task
from petlas.datasets.readers import READERS, get_reader, layout_of
from petlas.datasets.readers.base import Part, ReadOptions, set_aside

Draw = Callable[..., Path]

TOY = """
import numpy as np
from petlas.datasets import ArraySource, Task, View
from petlas.datasets.readers.base import Reader


class Toy(Reader):
    def recognises(self, path):
        return (path / "toy.npz").is_file()

    def read(self, path, options):
        held = np.load(path / "toy.npz")
        whole = View.whole(ArraySource(held["images"][:6]), held["labels"][:6])
        views = {"train": whole.subset(range(4)), "val": whole.subset([4, 5]), "trainval": whole}
        views["test"] = View.whole(ArraySource(held["images"][6:]), held["labels"][6:])
        return Task(path.name, ("a", "b"), "single_label", views, "toy")
"""


def conforms(layout: str, path: Path) -> None:
    reader = get_reader(layout)
    assert reader.recognises(path)
    name = str(path)
    if name not in reader.builtin:
        assert layout_of(path) == layout
        assert not reader.recognises(path.parent / "empty")
        assert (path.name, layout) in {(info.name, info.layout) for info in list_tasks(path) if info.found}
    task, again, other = open_task(name), open_task(name), open_task(name, split_seed=1)
    assert (task.layout, task.name) == (layout, path.name)
    assert (task.split_seed, other.split_seed) in ((0, 1), (None, None))
    assert (task.fingerprint == other.fingerprint) == (task.split_seed is None)
    assert (task.fingerprint, task.test_fingerprint) == (again.fingerprint, again.test_fingerprint)
    assert pickle.loads(pickle.dumps(task)).fingerprint == task.fingerprint
    assert check_task(task, 4) == ()
    learned, test = task.views["trainval"], task.views["test"]
    parts = np.concatenate([task.views["train"].indices, task.views["val"].indices])
    assert sorted(parts) == list(range(len(learned.source)))
    few_shot = any(note.startswith("few-shot: val only chooses") for note in task.notes)
    assert not few_shot or reader.takes_shots
    assert sorted(learned.indices) == sorted(task.views["train"].indices if few_shot else parts)
    assert open_store(learned.source, 4).shape == (len(learned.source), 3, 4, 4)
    assert open_store(test.source, 4).shape == (len(test), 3, 4, 4)
    assert all(place for index in (0, len(test.source) - 1) for place in (test.source.place(index),))
    assert len(task.folds(2, 0)) == 2
    assert len(learned.sample(3, 0)) == 3


@pytest.mark.parametrize("layout", READERS)
def test_every_reader_conforms(layout: str, tmp_path: Path, sample: Callable[[str], Path]) -> None:
    (tmp_path / "empty").mkdir()
    conforms(layout, sample(layout))


@pytest.mark.parametrize("layout", [layout for layout in READERS if not get_reader(layout).builtin])
def test_what_is_read_depends_on_contents_and_not_on_the_place(
    layout: str, tmp_path: Path, draw: Draw, sample: Callable[[str], Path]
) -> None:
    first = sample(layout)
    second = Path(shutil.copytree(first, tmp_path / "elsewhere/copy"))
    one, two = open_task(str(first)), open_task(str(second))
    assert (one.fingerprint, one.test_fingerprint, one.classes) == (two.fingerprint, two.test_fingerprint, two.classes)
    source = two.views["train"].source
    if isinstance(source, FileSource):
        draw(source.root / source.name(0), 99)
    else:  # kept within another file: one bit of a pixel
        file = next(second.rglob("train/*.arrow"))
        content = bytearray(file.read_bytes())
        content[content.index(b"IDAT") + 20] ^= 1
        file.write_bytes(content)
    assert open_task(str(second)).fingerprint != one.fingerprint


def test_a_reader_from_outside_is_one_file_and_one_line(
    tmp_path: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch, samples: dict[str, Callable[[Path, Draw], Path]]
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/toy_reader.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setitem(READERS, "toy", "toy_reader:Toy")
    (tmp_path / "empty").mkdir()
    # What another reader might take is of no account next to the file that only this one knows.
    sample = samples["folder"](tmp_path / "sample", draw)
    images = np.random.RandomState(0).randint(0, 256, (10, 5, 5), dtype=np.uint8)
    np.savez(sample / "toy.npz", images=images, labels=np.arange(10) % 2)
    conforms("toy", sample)
    sys.modules.pop("toy_reader", None)


def test_an_unknown_reader_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        get_reader("toy")


def test_a_fifth_is_set_aside_by_classes_of_either_kind() -> None:
    names = tuple(str(number) for number in range(100))
    labels = np.repeat([0, 1], [80, 20])
    for targets in (labels, np.eye(2, dtype=bool)[labels]):
        kept, held = set_aside(Part(names, targets, names), seed=0)
        assert sorted(kept.names + held.names) == sorted(names)
        assert kept.names == kept.places
        assert np.bincount(labels[[int(name) for name in held.names]]).tolist() == [16, 4]
        assert list(map(int, held.names)) == sorted(map(int, held.names))
    assert ReadOptions().split_seed == 0
