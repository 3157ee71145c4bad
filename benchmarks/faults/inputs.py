"""Bad and odd inputs for the commands, each with how it must end and what must be said."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

SMALL = {
    "backbone": {"name": "vit_mini_patch16_64", "img_size": 32},
    "space": {"methods": {"lora": {"blocks": [0, 5], "sizes": [0, 1, 2]}}},
    "search": {"trials": 1, "baselines": False, "sampler": "random"},
    "train": {"epochs": 1, "batch_size": 64, "warmup_epochs": 0},
    "protocol": {"retrain_seeds": 1},
    "resources": {"runner": "inline"},
    "runs": "runs",
}


@dataclass
class Case:
    """A command on an input.

    Args:
        given: What the input is.
        command: The arguments of petlas, run in the case's folder.
        status: How it must end.
        says: A pattern that its last lines must have.
        make: Makes the input in the case's folder.
        before: A command that must succeed first.
    """

    given: str
    command: list[str]
    status: int
    says: str
    make: Callable[[Path], None] = lambda folder: None
    before: list[str] = field(default_factory=list)


def config(**groups: object) -> Callable[[Path], None]:
    """Writes a small configuration; dictionaries are merged into its groups."""

    def make(folder: Path) -> None:
        data = {"name": "run", "task": "digits"} | SMALL
        for key, value in groups.items():
            old = data.get(key)
            data[key] = old | value if isinstance(old, dict) and isinstance(value, dict) else value
        (folder / "c.yaml").write_text(yaml.safe_dump(data))

    return make


def picture(path: Path, seed: int = 0, side: int = 32) -> None:
    """A small picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def images(classes: tuple[str, ...] = ("a", "b"), count: int = 10, below: str = "data") -> Callable[[Path], None]:
    """Writes a class folder for each class, and a configuration for them."""

    def make(folder: Path) -> None:
        for number, name in enumerate(classes):
            for index in range(count):
                picture(folder / below / name / f"{index}.png", 1000 * number + index)
        config(task="data")(folder)

    return make


def both(*makers: Callable[[Path], None]) -> Callable[[Path], None]:
    """One after the other."""

    def make(folder: Path) -> None:
        for each in makers:
            each(folder)

    return make


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Writes a file."""

    def make(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def deep(kind: str) -> Callable[[Path], None]:
    """Writes a picture of more than eight bits into the first class."""

    def make(folder: Path) -> None:
        images()(folder)
        values = np.linspace(0, 4095, 32 * 32).reshape(32, 32)
        if kind == "float":
            Image.fromarray(values.astype(np.float32)).save(folder / "data" / "a" / "deep.tif")
        else:
            Image.fromarray(values.astype(np.uint16)).save(folder / "data" / "a" / "deep.png")

    return make


def lists(**files: str) -> Callable[[Path], None]:
    """Writes a task in the layout of VTAB-1k; `train`, `val`, `test` replace its lists."""
    names = {"train": "train800.txt", "val": "val200.txt", "trainval": "train800val200.txt", "test": "test.txt"}

    def make(folder: Path) -> None:
        for index in range(30):
            picture(folder / "data" / "images" / f"{index}.png", index)

        def rows(start: int, stop: int) -> str:
            return "".join(f"images/{index}.png {index % 2}\n" for index in range(start, stop))

        content = {"train": rows(0, 12), "val": rows(12, 20), "trainval": rows(0, 20), "test": rows(20, 30)} | files
        for split, text in content.items():
            if text:
                (folder / "data" / names[split]).write_text(text)
        config(task="data")(folder)

    return make


def weights(kind: str) -> Callable[[Path], None]:
    """Writes a checkpoint of the mini backbone: whole, with a prefix, with NaN, or of another backbone."""

    def make(folder: Path) -> None:
        from petlas.petl import load_backbone

        state = {key: value.clone() for key, value in load_backbone("vit_mini_patch16_64").state_dict().items()}
        if kind == "nan":
            next(iter(state.values())).view(-1)[0] = float("nan")
        if kind == "prefix":
            state = {f"module.{key}": value for key, value in state.items()}
        if kind == "other":
            state = {key: torch.zeros(7, *value.shape) for key, value in state.items()}
        if kind == "pth":
            torch.save(state, folder / "w.pth")
        else:
            save_file(state, str(folder / "w.safetensors"))

    return make


def truncate(name: str) -> Callable[[Path], None]:
    """Cuts a file in half."""

    def make(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return make


def remove(name: str) -> Callable[[Path], None]:
    """Removes a file or a folder."""

    def make(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return make


SEARCH, CHECK = ["search", "c.yaml"], ["validate", "c.yaml"]
ADAPTER = "runs/run/best/adapter.safetensors"


def cases() -> Iterator[Case]:
    """All of them."""
    yield from of_configurations()
    yield from of_folders()
    yield from of_lists()
    yield from of_weights()
    yield from of_studies()


def of_configurations() -> Iterator[Case]:
    """Settings, and what they ask of the machine."""
    yield Case("an unknown key", CHECK, 2, "did you mean", config(trian={"epochs": 3}))
    yield Case("a wrong type", CHECK, 2, "train.epochs", config(train={"epochs": "many"}))
    yield Case("epochs of 0", [*CHECK, "train.epochs=0"], 2, "greater than", config())
    yield Case("a rate that is no number", [*CHECK, "train.lr=.nan"], 2, "train.lr", config())
    yield Case("one fold", [*CHECK, "protocol.folds=1"], 2, "protocol.folds", config())
    yield Case("a method that there is not", CHECK, 2, "unknown method", config(space={"methods": {"lorra": {}}}))
    yield Case(
        "sizes that fall",
        CHECK,
        2,
        "must increase",
        config(space={"methods": {"lora": {"blocks": "all", "sizes": [4, 1]}}}),
    )
    yield Case(
        "a setting that is not searched",
        CHECK,
        2,
        "settings",
        config(space=SMALL["space"] | {"settings": {"lrr": {"low": 1e-4, "high": 1e-2}}}),
    )
    yield Case("a strategy misspelt", [*CHECK, "strategy=trails"], 2, "did you mean", config())
    yield Case("a metric misspelt", [*SEARCH, "task.metric=acuracy"], 2, "did you mean accuracy", config())
    yield Case("a name with a slash", [*CHECK, "name=a/b"], 2, "plain folder name", config())
    yield Case("a name of blanks", [*CHECK, "name=' x'"], 2, "plain folder name", config())
    yield Case("broken YAML", CHECK, 2, "YAML", write("c.yaml", "a: [1\nb: 2"))
    yield Case("a list in place of a mapping", CHECK, 2, "mapping", write("c.yaml", "- 1"))
    yield Case("a configuration that is not there", ["search", "nothing"], 2, "must be a YAML file")
    yield Case("a value twice", CHECK, 2, "twice", write("c.yaml", "name: a\nname: b\n"))
    yield Case("an override without a value", [*CHECK, "train"], 2, "must be a YAML file", config())
    yield Case("one run twice", [*SEARCH, "c.yaml"], 2, "twice", config())
    yield Case(
        "a budget that nothing fits",
        SEARCH,
        2,
        "raise the limit",
        config(budget={"params": 3}, space={"methods": {"lora": {"blocks": [0], "sizes": [1]}}}),
    )
    yield Case("more CPUs than there are", [*SEARCH, "resources.cpus=999"], 2, "resources.cpus", config())
    yield Case("more GPUs than there are", [*SEARCH, "resources.gpus=64"], 2, "resources.gpus", config())
    yield Case("a database without a driver", [*SEARCH, "storage=mysql://u:p@127.0.0.1/x"], 2, "driver", config())
    yield Case("no database there", [*SEARCH, "storage=sqlite:////nowhere/x.db"], 2, "no database answers", config())
    yield Case("an image size that patches do not divide", [*SEARCH, "backbone.img_size=40"], 2, "40", config())
    yield Case("a backbone misspelt", [*SEARCH, "backbone.name=vit_mni_patch16_64"], 2, "did you mean", config())


def of_folders() -> Iterator[Case]:
    """Folders of images."""
    yield Case("a task that is not there", [*SEARCH, "task=/nope"], 2, "petlas: .*/nope", config())
    yield Case("validating a task that is not there", [*CHECK, "task=/nope"], 2, "/nope", config())
    yield Case("a known task without a root", [*SEARCH, "task=dtd"], 2, "root", config())
    yield Case(
        "an empty folder", SEARCH, 2, "petlas: .*data", both(images(), remove("data"), lambda f: (f / "data").mkdir())
    )
    yield Case("a single class", SEARCH, 2, "two classes", images(("a",)))
    yield Case("two images of a class", SEARCH, 2, "image", images(count=2))
    yield Case("a class without images", SEARCH, 2, "no image", both(images(), lambda f: (f / "data/c").mkdir()))
    yield Case("a truncated image", SEARCH, 2, "data/a/3.png", both(images(), truncate("data/a/3.png")))
    yield Case("an empty file", SEARCH, 2, "data/a/3.png", both(images(), write("data/a/3.png", b"")))
    yield Case(
        "a pointer of git-lfs",
        SEARCH,
        2,
        "lfs",
        both(images(), write("data/a/3.png", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")),
    )
    yield Case("12 bits in 16", SEARCH, 2, "white is not known", deep("16"))
    yield Case("12 bits in 16, with their range", [*SEARCH, "task.value_range=[0, 4095]"], 0, "best", deep("16"))
    yield Case("floats of an unknown range", SEARCH, 2, "range", deep("float"))
    yield Case(
        "loose files beside the classes", SEARCH, 0, "notes.txt|1 ", both(images(), write("data/notes.txt", "x"))
    )
    yield Case(
        "folders of tools",
        SEARCH,
        0,
        "trial",
        both(images(), write("data/__MACOSX/._a.png", "x"), write("data/.DS_Store", "x")),
    )
    yield Case(
        "splits in capitals",
        SEARCH,
        0,
        "best",
        both(images(below="data/Train"), images(below="data/Test"), lambda f: differ(f / "data/Test")),
    )
    yield Case(
        "training and testing",
        SEARCH,
        0,
        "best",
        both(images(below="data/training"), images(below="data/testing"), lambda f: differ(f / "data/testing")),
    )
    yield Case(
        "the test images are those of train",
        SEARCH,
        2,
        "also|same|twice",
        both(images(below="data/train"), images(below="data/test")),
    )
    yield Case("classes of odd names", SEARCH, 0, "best", images(("[bold]a", "b\nc", "100%", "ü", "-x")))
    yield Case("a name that is no UTF-8", SEARCH, 0, "best", images(("a", os.fsdecode(b"\xff\xfe"))))
    yield Case(
        "a linked class",
        SEARCH,
        0,
        "best",
        both(images(), lambda f: (f / "data/b").rename(f / "b"), lambda f: (f / "data/b").symlink_to(f / "b")),
    )
    yield Case(
        "a folder linked into itself",
        SEARCH,
        0,
        "best",
        both(images(), lambda f: (f / "data/a/loop").symlink_to(f / "data/a")),
    )


def of_lists() -> Iterator[Case]:
    """Lists of images, and the cache."""
    yield Case("lists", SEARCH, 0, "best", lists())
    yield Case(
        "labels from 1",
        SEARCH,
        2,
        "number the classes from 0",
        lists(
            train="images/0.png 1\nimages/1.png 2\n",
            val="images/2.png 1\n",
            trainval="images/0.png 1\nimages/1.png 2\nimages/2.png 1\n",
            test="images/21.png 2\n",
        ),
    )
    yield Case("a column too many", SEARCH, 2, "line 1", lists(train="images/0.png 0 x\n"))
    yield Case("a list that is missing", SEARCH, 2, "test.txt", lists(test=""))
    yield Case("an image that is listed but missing", SEARCH, 2, "does not exist", lists(val="images/99.png 0\n"))
    yield Case("an image in train and test", SEARCH, 2, "images/0.png", lists(test="images/0.png 0\nimages/21.png 1\n"))
    yield Case("an unwritable cache", SEARCH, 2, "PETLAS_CACHE", both(config(), write("cache", "a file")))


def of_weights() -> Iterator[Case]:
    """Checkpoints."""
    here = "backbone.checkpoint=w.safetensors"
    yield Case("weights", [*SEARCH, here], 0, "best", both(config(), weights("whole")))
    yield Case("weights with a prefix", [*SEARCH, here], 0, "best", both(config(), weights("prefix")))
    yield Case("weights of NaN", [*SEARCH, here], 2, "finite|NaN", both(config(), weights("nan")))
    yield Case(
        "weights of another shape", [*SEARCH, here], 2, "does not hold the weights", both(config(), weights("other"))
    )
    yield Case("weights that are not there", [*SEARCH, here], 2, "there is none", config())
    yield Case(
        "text as weights", [*SEARCH, "backbone.checkpoint=w.pth"], 2, "w.pth", both(config(), write("w.pth", "hi"))
    )
    yield Case(
        "nonsense as .npz", [*SEARCH, "backbone.checkpoint=w.npz"], 2, "w.npz", both(config(), write("w.npz", "hi"))
    )
    yield Case("a .pth", [*SEARCH, "backbone.checkpoint=w.pth"], 0, "best", both(config(), weights("pth")))


def of_studies() -> Iterator[Case]:
    """Studies, retraining, predicting, names of runs."""
    yield Case("a run that is not there", ["study", "nothing"], 2, "none yet")
    yield Case(
        "retraining a trial that there is not", ["retrain", "run", "--trial", "9"], 2, "--trial", config(), SEARCH
    )
    yield Case(
        "a design of another backbone",
        ["retrain", "run", "--design", "d.yaml"],
        2,
        "vit_base",
        both(config(), write("d.yaml", "{backbone: vit_base_patch16_224, placements: []}")),
        SEARCH,
    )
    yield Case("a design that is none", ["retrain", "run", "--design", "c.yaml"], 2, "design", config(), SEARCH)
    yield Case(
        "a design in a block too many",
        ["retrain", "run", "--design", "d.yaml"],
        2,
        "0..5",
        both(config(), write("d.yaml", "placements: [{method: lora, block: 9, size: 1}]")),
        SEARCH,
    )
    yield Case("other settings under the same name", [*SEARCH, "train.lr=0.5"], 2, "train.lr", config(), SEARCH)
    yield Case("a study with a torn last line", [*SEARCH, "search.trials=2"], 0, "best", config(), SEARCH)
    yield Case("predicting with a run folder", ["predict", "runs/run", "x.png"], 2, "adapter", config(), SEARCH)
    yield Case("predicting with a YAML file", ["predict", "c.yaml", "x.png"], 2, "adapter", config())
    yield Case("predicting a file that is no image", ["predict", ADAPTER, "c.yaml"], 2, "c.yaml", config(), ["retrain"])
    yield Case(
        "predicting a file that is not there", ["predict", ADAPTER, "no.png"], 2, "no.png", config(), ["retrain"]
    )
    yield Case(
        "an adapter file that is cut short",
        ["predict", ADAPTER, "x.png"],
        2,
        "adapter",
        both(config(), lambda f: picture(f / "x.png")),
        ["retrain", "cut"],
    )
    for name in ("q?1", "[bold]x", "a%20b", "ü #1", "x" * 200):
        yield Case(
            f"a run called {name[:20]}", [*SEARCH, f"name={yaml.safe_dump(name).splitlines()[0]}"], 0, "best", config()
        )


def differ(folder: Path) -> None:
    """Replaces pictures by others, so that test and train differ."""
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        picture(path, 10_000 + number)
