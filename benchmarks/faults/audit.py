"""An audit of silent dependence: the same small search under changes that must not matter.

python benchmarks/faults/audit.py --out benchmarks/faults/audit.md

Each change is run in processes of its own, and what came of it is held against the first run: the splits (fingerprints
of their images), the trials (design, settings, value of every epoch, state) and the value on test.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

CLASSES, EACH = ("ant", "bee", "cat"), 24
CONFIG: dict[str, Any] = {
    "name": "run",
    "task": "data",
    "backbone": {"name": "vit_mini_patch16_64", "img_size": 32},
    "space": {
        "methods": {"lora": {"blocks": "all", "sizes": [0, 2, 4]}, "vpt": {"blocks": [0, 3], "sizes": [0, 2]}},
        "settings": {"lr": {"low": 1e-3, "high": 1e-2, "log": True}},
    },
    "budget": {"params": 8000},
    "search": {"trials": 8, "baselines": False, "sampler": "tpe", "grace_epochs": 1},
    "train": {"epochs": 4, "batch_size": 8, "warmup_epochs": 1, "amp": "off"},
    "protocol": {"folds": 3, "finalists": 2, "retrain_seeds": 1},
    "resources": {"runner": "inline"},
    "runs": "runs",
}


def write_data(root: Path, order: int = 1, names: tuple[str, ...] = CLASSES) -> None:
    """Pictures of noise with a tint that tells the class; written in the order of their names, or in reverse."""
    files = [(number, index) for number in range(len(names)) for index in range(EACH)][::order]
    for number, index in files:
        rng = np.random.default_rng([number, index])
        pixels = rng.integers(0, 200, (40, 40, 3))
        pixels[..., number] += rng.integers(0, 56)
        path = root / "data" / names[number] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)


@dataclass
class Found:
    """What a search and its retraining came to."""

    splits: tuple[str, str]
    trials: list[tuple[Any, ...]]
    best: str
    test: float


def start(folder: Path, *arguments: str, cache: Path | None = None) -> subprocess.Popen[str]:
    """A command in a folder; it heeds Ctrl-C also where this script runs in the background."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from petlas.search.cli import main; main()"
    environment = os.environ | {"PETLAS_CACHE": str(cache or folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def command(folder: Path, *arguments: str, cache: Path | None = None) -> str:
    """Its output; it must end well."""
    process = start(folder, *arguments, cache=cache)
    out, err = process.communicate()
    if process.returncode:
        raise RuntimeError(f"petlas {' '.join(arguments)} ended with {process.returncode}: {err[-1000:]}")
    return out


def result(folder: Path, *overrides: str, name: str = "run", cache: Path | None = None) -> Found:
    """Search and retrain from where they stand, and read what came of it."""
    command(folder, "search", "c.yaml", *overrides, f"name={json.dumps(name)}", cache=cache)
    outcome = json.loads(command(folder, "retrain", f"runs/{name}", "--format", "json", cache=cache))
    return read(folder, name, outcome)


def read(folder: Path, name: str, outcome: dict[str, Any]) -> Found:
    """What a run folder says, without clocks and numbers of trials that were cut off."""
    from petlas.petl import read_adapter_info
    from petlas.search.study import StudyRecord, is_interrupted

    record = StudyRecord.read(folder / "runs" / name)
    trials = [
        (
            t.user_attrs["stage"], t.user_attrs["key"], t.user_attrs["fold"], t.state.name,
            tuple(sorted(t.intermediate_values.items())), tuple(t.values or ()),
        )
        for t in record.trials() if not is_interrupted(t)
    ]  # fmt: skip
    best = record.best()
    assert best is not None
    info = read_adapter_info(folder / "runs" / name / "best" / "adapter.safetensors")
    return Found((info.task["fingerprint"], info.backbone), trials, best.user_attrs["key"], outcome["tests"][0])


def kill_at(folder: Path, line: str, *arguments: str) -> None:
    """Start a command and end it with SIGKILL as soon as its log has a line with that text."""
    process = start(folder, *arguments)
    log, until = folder / "runs" / "run" / "log.txt", time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        if log.exists() and line in log.read_text():
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def changes(base: Path) -> dict[str, Callable[[Path], Found]]:
    """What is changed, and how."""

    def killed(*lines: str) -> Callable[[Path], Found]:
        def run(folder: Path) -> Found:
            for line in lines:
                kill_at(folder, line, "search", "c.yaml")
            return result(folder)

        return run

    def killed_retraining(folder: Path) -> Found:
        command(folder, "search", "c.yaml")
        process = start(folder, "retrain", "runs/run")
        until = time.monotonic() + 300
        while time.monotonic() < until and not list((folder / "runs/run").glob("checkpoints/*trainval*")):
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return result(folder)

    def renamed(folder: Path) -> Found:
        shutil.rmtree(folder / "data")
        write_data(folder, names=("[a]", "b%", "c d"))
        return result(folder)

    def reversed_order(folder: Path) -> Found:
        shutil.rmtree(folder / "data")
        write_data(folder, order=-1)
        return result(folder)

    def elsewhere(folder: Path) -> Found:
        other = folder / "deeper" / "still"
        other.mkdir(parents=True)
        shutil.move(folder / "data", other / "data")
        shutil.copy(folder / "c.yaml", other / "c.yaml")
        return result(other)

    def full_cache(folder: Path) -> Found:
        return result(folder, cache=base / "cache")

    return {
        "again": result,
        "files written in another order": reversed_order,
        "classes of other names, in the same order": renamed,
        "another working folder": elsewhere,
        "another run name": lambda folder: result(folder, name="[other] run?"),
        "a cache that is full already": full_cache,
        "through Ray, one worker": lambda folder: result(folder, "resources.runner=ray", "resources.concurrent=1"),
        "killed after the first trial": killed("trial   0"),
        "killed in three trials, one after the other": killed("trial   1", "trial   4", "trial   6"),
        "killed in the folds": killed("folds"),
        "killed while retraining": killed_retraining,
    }


def unordered(found: Found) -> set[tuple[Any, ...]]:
    """The trials, whatever order they ended in."""
    return set(found.trials)


def main() -> None:
    """Run all changes and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="audit-") as scratch:
        base = Path(scratch, "base")
        for name in ["base"]:
            fresh(Path(scratch, name))
        first = result(base)
        print("base", first.best, first.test, flush=True)
        for number, (what, change) in enumerate(changes(base).items()):
            folder = Path(scratch, f"f{number}")
            fresh(folder)
            rows.append(row(what, first, change(folder)))
        rows += special(Path(scratch), first)
    wrong = sum("differ" in line for line in rows)
    print(f"{wrong} of {len(rows)} changes mattered that must not")
    if arguments.out:
        head = "# What must not matter\n\n`python benchmarks/faults/audit.py --out benchmarks/faults/audit.md`\n\n"
        table = "| change | splits | trials and values | chosen | test |\n|---|---|---|---|---|\n"
        arguments.out.write_text(head + table + "\n".join(rows) + "\n")
    sys.exit(bool(wrong))


def fresh(folder: Path) -> None:
    """A folder with the data and the configuration."""
    folder.mkdir(parents=True)
    write_data(folder)
    (folder / "c.yaml").write_text(yaml.safe_dump(CONFIG))


def row(what: str, first: Found, found: Found, order: bool = True) -> str:
    """A line of the table."""
    same_trials = found.trials == first.trials if order else unordered(found) == unordered(first)
    same = (found.splits == first.splits, same_trials, found.best == first.best, found.test == first.test)
    cells = " | ".join("same" if each else "**differ**" for each in same)
    print(what, same, flush=True)
    return f"| {what} | {cells} |"


def special(scratch: Path, first: Found) -> list[str]:
    """Changes that may change some things, and only these."""
    rows = []
    folder = scratch / "seed"
    fresh(folder)
    other = result(folder, "seed=1")
    same = other.splits == first.splits
    cells = (
        "same" if same else "**differ**",
        "other, as they should" if other.trials != first.trials else "**differ not**",
    )
    print("another seed", cells, flush=True)
    rows.append(f"| another seed | {cells[0]} | {cells[1]} | | |")
    # Two workers end their trials in another order, and a sampler that learns draws by that: random draws may not.
    plain = ("search.sampler=random", "search.grace_epochs=4")
    alone, pair = scratch / "alone", scratch / "pair"
    for each in (alone, pair):
        fresh(each)
    one = result(alone, *plain)
    two = result(pair, *plain, "resources.runner=ray", "resources.concurrent=2")
    return [*rows, row("two workers, random draws, nothing stopped early", one, two, order=False)]


if __name__ == "__main__":
    main()
