"""A small made copy of each layout."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Draw = Callable[..., Path]
Sample = Callable[[Path, Draw], Path]

ANIMALS = ("cat", "dog")


def _images(folder: Path, draw: Draw, names: list[str]) -> list[str]:
    for number, name in enumerate(names):
        draw(folder / name, number)
    return names


def digits(folder: Path, draw: Draw) -> Path:
    return Path("digits")


def vtab(folder: Path, draw: Draw) -> Path:
    lines = [f"{draw(folder / f'images/{n}.png', n).relative_to(folder)} {n % 2}\n" for n in range(12)]
    parts = {"train800": lines[:6], "val200": lines[6:8], "train800val200": lines[:8], "test": lines[8:]}
    for name, part in parts.items():
        (folder / f"{name}.txt").write_text("".join(part))
    return folder


def image_label_list(folder: Path, draw: Draw) -> Path:
    (folder / "a").mkdir(parents=True)
    (folder / "classes.txt").write_text("cat\ndog\nowl\n")
    labels = ("cat", "dog", "cat,owl", "")
    lines = [f"{draw(folder / f'a/{n}.png', n).relative_to(folder)} {labels[n % 4]}\n" for n in range(16)]
    (folder / "train.txt").write_text("".join(lines))
    return folder


def class_folders(folder: Path, draw: Draw) -> Path:
    _images(folder, draw, [f"{ANIMALS[number % 2]}/{number}.png" for number in range(16)])
    return folder


def fgvc_json(folder: Path, draw: Draw) -> Path:
    """Classes 1, 2 and 3; val lacks the first."""
    names = _images(folder / "images", draw, [f"{n % 3 + 1:03}.Big_bird_{n % 3}/a b{n}.png" for n in range(15)])
    labels = {name: number % 3 + 1 for number, name in enumerate(names)}
    parts = {"train": names[:6], "val": [name for name in names[6:9] if labels[name] > 1], "test": names[9:]}
    for part, held in parts.items():
        (folder / f"{part}.json").write_text(json.dumps({name: labels[name] for name in held}))
    return folder


def noah(folder: Path, draw: Draw) -> Path:
    """Two classes; lists of 1 and 2 shots, seeds 0 and 1."""
    names = _images(folder / "images", draw, [f"pets/my {ANIMALS[n % 2]} {n}.png" for n in range(12)])
    lines = [f"{name} {number % 2}\n" for number, name in enumerate(names)]
    (folder / "annotations").mkdir()
    for part, held in {"val": lines[8:10], "test": lines[10:]}.items():
        (folder / f"annotations/{part}_meta.list").write_text("".join(held))
    for shots in (1, 2):
        for seed in (0, 1):
            file = folder / f"annotations/train_meta.list.num_shot_{shots}.seed_{seed}"
            file.write_text("".join(lines[2 * seed : 2 * seed + 2 * shots]))
    return folder


def coop(folder: Path, draw: Draw) -> Path:
    names = _images(folder / "jpg", draw, [f"{ANIMALS[n % 2]}_{n}.png" for n in range(20)])
    rows: list[list[Any]] = [[name, n % 2, f"big_{ANIMALS[n % 2]}"] for n, name in enumerate(names)]
    split = {"train": rows[:12], "val": rows[12:16], "test": rows[16:]}
    (folder / "split_zhou_Animals.json").write_text(json.dumps(split))
    return folder


def cub(folder: Path, draw: Draw) -> Path:
    names = _images(folder / "images", draw, [f"{n % 2 + 1:03}.Black_{ANIMALS[n % 2]}/{n}.png" for n in range(12)])
    (folder / "images.txt").write_text("".join(f"{n + 1} {name}\n" for n, name in enumerate(names)))
    (folder / "image_class_labels.txt").write_text("".join(f"{n + 1} {n % 2 + 1}\n" for n in range(12)))
    (folder / "train_test_split.txt").write_text("".join(f"{n + 1} {int(n < 8)}\n" for n in range(12)))
    (folder / "classes.txt").write_text("1 001.Black_cat\n2 002.Black_dog\n3 003.No_image\n")
    return folder


def flowers(folder: Path, draw: Draw) -> Path:
    from scipy.io import savemat

    _images(folder, draw, [f"jpg/image_{n:05}.jpg" for n in range(1, 13)])
    savemat(folder / "imagelabels.mat", {"labels": np.array([[n % 2 + 1 for n in range(12)]], np.uint8)})
    ids = {"trnid": range(1, 7), "valid": range(7, 9), "tstid": range(9, 13)}
    savemat(folder / "setid.mat", {name: np.array([list(numbers)], np.uint16) for name, numbers in ids.items()})
    return folder


def dogs(folder: Path, draw: Draw) -> Path:
    from scipy.io import savemat

    names = _images(folder / "Images", draw, [f"n0208562{n % 2}-Big_{ANIMALS[n % 2]}/{n}.png" for n in range(12)])
    for part, held in (("train", range(8)), ("test", range(8, 12))):
        files = np.array([[names[n]] for n in held], dtype=object)
        savemat(folder / f"{part}_list.mat", {"file_list": files, "labels": np.array([[n % 2 + 1] for n in held])})
    return folder


def cars(folder: Path, draw: Draw) -> Path:
    from scipy.io import savemat

    (folder / "devkit").mkdir(parents=True)
    kind = np.dtype([("class", object), ("fname", object)])
    for part, held, file in (
        ("train", range(8), folder / "devkit/cars_train_annos.mat"),
        ("test", range(8, 12), folder / "cars_test_annos_withlabels.mat"),
    ):
        _images(
            folder / f"cars_{part}", lambda path, n, first=held[0]: draw(path, n + first), [f"{n}.jpg" for n in held]
        )
        savemat(file, {"annotations": np.array([[(n % 2 + 1, f"{n}.jpg") for n in held]], dtype=kind)})
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array([["AM General Hummer", "Acura TL"]], object)})
    return folder


def torchvision(folder: Path, draw: Draw) -> Path:
    """The layout of DTD."""
    names = _images(folder / "dtd/dtd/images", draw, [f"{ANIMALS[n % 2]}/{ANIMALS[n % 2]}_{n}.png" for n in range(12)])
    (folder / "dtd/dtd/labels").mkdir()
    for part, held in {"train": names[:4], "val": names[4:8], "test": names[8:]}.items():
        (folder / f"dtd/dtd/labels/{part}1.txt").write_text("".join(f"{name}\n" for name in held))
    return folder


def mnist(folder: Path) -> Path:
    """MNIST's own files with 12 + 4 images of three classes, as torchvision keeps them; the folder is called MNIST."""
    raw = folder / "MNIST/raw"
    raw.mkdir(parents=True)
    random = np.random.RandomState(0)
    for part, count in (("train", 12), ("t10k", 4)):
        pixels = random.randint(0, 256, (count, 28, 28), dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + pixels.tobytes())
        labels = bytes(n % 3 for n in range(count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels)
    return folder / "MNIST"


def huggingface(folder: Path, draw: Draw) -> Path:
    """As `DatasetDict.save_to_disk` writes train and test; test has two files."""
    import pyarrow as pa

    folder.mkdir(parents=True)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(ANIMALS), "_type": "ClassLabel"},
        "when": {"dtype": "string", "_type": "Value"},
    }
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", picture), ("label", pa.int64()), ("when", pa.string())])
    for part, pieces in {"train": [range(8)], "test": [range(8, 10), range(10, 12)]}.items():
        (folder / part).mkdir()
        files = []
        for piece, numbers in enumerate(pieces):
            pictures = [{"bytes": _png(draw, folder, n), "path": None} for n in numbers]
            columns = {"image": pictures, "label": [n % 2 for n in numbers], "when": ["now" for _ in numbers]}
            files.append({"filename": f"data-{piece:05}-of-{len(pieces):05}.arrow"})
            with pa.ipc.new_stream(str(folder / part / files[-1]["filename"]), schema) as stream:
                stream.write_table(pa.table(columns, schema=schema))
        (folder / part / "state.json").write_text(json.dumps({"_data_files": files, "_split": part}))
        (folder / part / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


def _png(draw: Draw, folder: Path, number: int) -> bytes:
    file = draw(folder / "drawn.png", number)
    content = file.read_bytes()
    file.unlink()
    return content


def table(folder: Path, draw: Draw) -> Path:
    names = _images(folder, draw, [f"pictures/my {n}.png" for n in range(16)])
    lines = [f"{name},{ANIMALS[n % 2]},{'test' if n > 11 else 'train'}" for n, name in enumerate(names)]
    (folder / "labels.csv").write_text("\n".join(["image,label,split", *lines]) + "\n")
    return folder


@pytest.fixture(scope="session")
def samples() -> dict[str, Sample]:
    """What writes a sound copy of each layout into a folder."""
    makers = (digits, vtab, image_label_list, fgvc_json, noah, coop, cub, flowers, dogs, cars, torchvision)
    return {maker.__name__: maker for maker in (*makers, huggingface, table)} | {"folder": class_folders}


@pytest.fixture
def sample(samples: dict[str, Sample], tmp_path: Path, draw: Draw) -> Callable[[str], Path]:
    """Writes a copy of a layout to `sample`."""

    def make(layout: str) -> Path:
        return samples[layout](tmp_path / "sample", draw)

    return make


@pytest.fixture
def mnist_folder(tmp_path: Path) -> Path:
    """MNIST, as torchvision keeps it, next to other data."""
    return mnist(tmp_path / "data")
