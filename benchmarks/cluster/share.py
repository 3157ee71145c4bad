"""One cluster, several searches: does each get its part, is the cluster full, and are the trials those of each alone?

    python benchmarks/cluster/share.py --out benchmarks/cluster/share.md

Three scenes, each on a Ray cluster that this machine plays (`ray.cluster_utils.Cluster`), with small real searches:

- one command searches four data sets on four nodes of one CPU and one logical GPU;
- two commands search two data sets, with other settings, on a cluster of two CPUs;
- four commands, started side by side, each with 0.06 of a GPU for a trial, share one node of one logical GPU.

A logical GPU is a number that Ray counts; training is on the CPU. Candidates are drawn at random and none is stopped
early, so that the order in which trials end is no matter, and the trials can be held against those of the same searches
one after the other in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from PIL import Image

from petlas.search import load_config, search
from petlas.search.study import StorageError, StudyRecord, is_interrupted

COMMAND = [sys.executable, "-c", "from petlas.search.cli import main; main()", "search"]
TASKS = {"letters": 3, "colours": 4, "shapes": 5}
"""Image folders that are drawn here, and how many classes they have; the digits are the fourth data set."""
STORE = 100 * 2**20


def write_images(root: Path) -> None:
    """Noise with a tint for each class."""
    for number, (name, classes) in enumerate(TASKS.items()):
        for label in range(classes):
            for index in range(60):
                rng = np.random.default_rng([number, label, index])
                pixels = rng.integers(0, 200, (32, 32, 3)) + rng.integers(0, 56, 3) * (np.arange(3) == label % 3)
                path = root / name / f"class{label}" / f"{index:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_config(folder: Path, task: str, trials: int, epochs: int, resources: dict[str, Any], **more: Any) -> Path:
    """A configuration of a small search."""
    few = {"trials": trials, "baselines": False, "sampler": "random", "grace_epochs": epochs}
    run = {
        "name": task,
        "task": task if task == "digits" else str(folder / "data" / task),
        "backbone": {"name": "vit_mini_patch16_64", "img_size": 32},
        "space": {"methods": {"lora": {"blocks": "all", "sizes": [0, 2, 4, 8]}}},
        "strategy": "trials",
        "search": few,
        "train": {"epochs": epochs, "batch_size": 50, "warmup_epochs": 0, "amp": "off"} | more.pop("train", {}),
        "resources": resources,
        "runs": str(folder / "runs"),
    }
    path = folder / f"{task}.yaml"
    path.write_text(yaml.safe_dump(run | more))
    return path


@contextmanager
def cluster(nodes: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A Ray cluster on this machine, whose first node is its head; its address."""
    import petlas.search.runners.ray  # noqa: F401, I001 (before Ray: what it sets is for these nodes, too)
    from ray.cluster_utils import Cluster

    head, *others = ({"object_store_memory": STORE} | node for node in nodes)
    played = Cluster(initialize_head=True, head_node_args=head)
    try:
        for node in others:
            played.add_node(**node)
        yield played.address
    finally:
        played.shutdown()


@dataclass
class Trial:
    """A finished trial, with its times in seconds since the epoch."""

    key: str
    values: tuple[float, ...]
    begin: float
    end: float


def trials_of(folder: Path) -> list[Trial]:
    """The finished trials of a run, in the order of their ends."""
    try:
        trials = StudyRecord.read(folder).trials()
    except StorageError:
        return []
    found = [
        Trial(t.user_attrs["key"], tuple(t.values or ()), t.datetime_start.timestamp(), t.datetime_complete.timestamp())
        for t in trials
        if t.state.is_finished() and not is_interrupted(t)
    ]
    return sorted(found, key=lambda trial: trial.end)


def start(folder: Path, name: str, *paths: Path) -> subprocess.Popen[bytes]:
    """A search command in a process of its own."""
    with (folder / f"{name}.log").open("wb") as told:
        return subprocess.Popen([*COMMAND, *map(str, paths)], cwd=folder, stdout=told, stderr=told)


def finish(folder: Path, drivers: dict[str, subprocess.Popen[bytes]], look: Callable[[], None] = lambda: None) -> None:
    """Wait for the commands, which must end well; `look` is called twice a second."""
    while any(driver.poll() is None for driver in drivers.values()):
        look()
        time.sleep(0.5)
    for name, driver in drivers.items():
        if driver.returncode:
            raise RuntimeError(f"{name}: {driver.returncode}: {(folder / f'{name}.log').read_text()[-2000:]}")


def alone(folder: Path, path: Path) -> dict[str, tuple[float, ...]]:
    """The trials of the same search in this process, which nobody disturbs."""
    overrides = [f"runs={json.dumps(str(folder / 'alone'))}", "resources={runner: inline, gpus: 0}"]
    config = load_config(str(path), overrides)
    search([config])
    return values(trials_of(config.folder))


def values(trials: Sequence[Trial]) -> dict[str, tuple[float, ...]]:
    """What was measured, by candidate."""
    return {trial.key: trial.values for trial in trials}


def training_processes() -> set[int]:
    """The workers of the cluster that this process plays, now."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            found |= {process.pid} if "Trainable" in " ".join(process.cmdline()) else set()
    return found


def in_use(trials: Sequence[Trial], slots: int) -> tuple[float, float]:
    """Over the time from the first start to the last one: the mean share of slots in a trial, and of time with all."""
    first, last = min(t.begin for t in trials), max(t.begin for t in trials)
    moments = np.linspace(first, last, 2000)
    running = np.array([sum(t.begin <= moment < t.end for t in trials) for moment in moments])
    return float((running / slots).mean()), float((running >= slots).mean())


def longest_wait(trials: Sequence[Trial], began: float) -> float:
    """The longest time without an end of a trial, from when the driver began."""
    ends = [began, *(trial.end for trial in trials)]
    return max(b - a for a, b in pairwise(ends))


def one_command(folder: Path, trials: int) -> list[str]:
    """Four data sets by one command on four nodes."""
    tasks, held, workers = ["digits", *TASKS], list[float](), set[int]()
    nodes = [{"num_cpus": 1, "num_gpus": 1}] * 4
    with cluster(nodes) as address:
        import ray

        ray.init(address=address, log_to_driver=False)
        resources = {"runner": "ray", "address": address, "gpus": 1}
        paths = [write_config(folder, task, trials, 4, resources) for task in tasks]

        def look() -> None:
            held.append(1 - ray.available_resources().get("GPU", 0.0) / 4)
            workers.update(training_processes())

        began = time.time()
        finish(folder, {"driver": start(folder, "driver", *paths)}, look)
        ray.shutdown()
    runs = {task: trials_of(folder / "runs" / task) for task in tasks}
    everything = [trial for found in runs.values() for trial in found]
    first = min(trial.begin for trial in everything)
    mean, full = in_use(everything, 4)
    lines = [
        "## One command, four data sets, four nodes",
        "",
        "| data set | trials | first start | first end | last end |",
    ]
    lines += ["|---|---|---|---|---|"]
    lines += [
        f"| {task} | {len(found)} | {min(t.begin for t in found) - first:.1f} s | {found[0].end - first:.1f} s "
        f"| {found[-1].end - first:.1f} s |"
        for task, found in runs.items()
    ]
    same = all(values(runs[task]) == alone(folder, path) for task, path in zip(tasks, paths, strict=True))
    lines += ["", "Times are since the first trial began, " + f"{first - began:.0f} s after the command."]
    lines += [
        f"Between the starts of the first and the last trial {mean:.0%} of the slots were in a trial, on average;"
    ]
    lines += [f"all four were for {full:.0%} of that time. Ray held {max(held):.0%} of the GPUs at most."]
    lines += [f"{len(workers)} worker processes were started."]
    return [
        *lines,
        f"Trials and values are those of four searches one after the other: **{'yes' if same else 'NO'}**.",
        "",
    ]


def two_commands(folder: Path, trials: int) -> list[str]:
    """Two drivers with other settings on two CPUs."""
    with cluster([{"num_cpus": 2}]) as address:
        resources = {"runner": "ray", "address": address, "gpus": 0}
        rates = {"digits": 1e-3, "colours": 5e-3}
        paths = {t: write_config(folder, t, trials, 8, resources, train={"lr": rate}) for t, rate in rates.items()}
        began = time.time()
        finish(folder, {task: start(folder, task, path) for task, path in paths.items()})
    lines = ["## Two commands, two CPUs", ""]
    lines += [
        "| data set | learning rate | first end | last end | longest wait | as alone |",
        "|---|---|---|---|---|---|",
    ]
    for task, path in paths.items():
        found = trials_of(folder / "runs" / task)
        same = values(found) == alone(folder, path)
        lines.append(
            f"| {task} | {rates[task]} | {found[0].end - began:.0f} s | {found[-1].end - began:.0f} s "
            f"| {longest_wait(found, began):.0f} s | {'yes' if same else '**NO**'} |"
        )
    return [*lines, "", "Times are since both commands were started.", ""]


def side_by_side(folder: Path, trials: int) -> list[str]:
    """Four drivers that want sixteen shares of a GPU between them."""
    tasks = ["digits", *TASKS]
    with cluster([{"num_cpus": 16, "num_gpus": 1}]) as address:
        resources = {"runner": "ray", "address": address, "gpus": 0.06}
        paths = {task: write_config(folder, task, trials, 8, resources) for task in tasks}
        began = time.time()
        finish(folder, {task: start(folder, task, path) for task, path in paths.items()})
    lines = ["## Four commands side by side, shares of 0.06 of one GPU", ""]
    lines += [
        "| data set | trials | first start | first end | last end | longest wait | at once, at most | as alone |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task, path in paths.items():
        found = trials_of(folder / "runs" / task)
        most = max(sum(t.begin <= other.begin < t.end for t in found) for other in found)
        same = values(found) == alone(folder, path)
        lines.append(
            f"| {task} | {len(found)} | {min(t.begin for t in found) - began:.0f} s "
            f"| {found[0].end - began:.0f} s | {found[-1].end - began:.0f} s "
            f"| {longest_wait(found, began):.0f} s | {most} | {'yes' if same else '**NO**'} |"
        )
    return [*lines, "", "Times are since all commands were started.", ""]


SCENES = {"one": one_command, "two": two_commands, "four": side_by_side}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--trials", type=int, default=24, help="of each search")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", COLUMNS="200")
    lines = [
        "# One cluster, several searches",
        "",
        f"`python benchmarks/cluster/share.py {' '.join(sys.argv[1:])}`",
        "",
    ]
    for name in args.scenes:
        with tempfile.TemporaryDirectory(prefix="share-") as scratch:
            folder = Path(scratch)
            os.environ["PETLAS_CACHE"] = str(folder / "cache")
            write_images(folder / "data")
            found = SCENES[name](folder, args.trials)
        print("\n".join(found), flush=True)
        lines += found
    if args.out:
        args.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
