"""How long it takes from `petlas search` to the first training step, next to `import torch`, and where the time goes.

    python benchmarks/cluster/start.py --out benchmarks/cluster/start.md

A search of one trial of one epoch of one step, on the digits with the mini backbone. The first step counts as done when
the trial is, so that a measurement on 200 images is included. All kinds are run in turns, each in a process of its own.
Beside others at work the seconds are too long: the processor's time of all processes, and how many others were at work,
are told with them. What was measured is kept beside `--out` (.jsonl), and a run that was cut off goes on from there.
`--python` compares other installations: their interpreters.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

CONFIG = {
    "name": "run",
    "task": "digits",
    "backbone": {"name": "vit_mini_patch16_64", "img_size": 32},
    "space": {"methods": {"lora": {"blocks": "all", "sizes": [2, 4]}}},
    "strategy": "trials",
    "search": {"baselines": False, "sampler": "random", "trials": 1},
    "train": {"epochs": 1, "batch_size": 800, "warmup_epochs": 0},
    "runs": "runs",
}
IMPORT = "import torch"
LOOKS_EVERY = 0.5  # seconds; looking takes some of the processor, too
PHASES = {
    "Ray is imported": "petlas.search.runners.ray.start:Start",
    "the driver is imported": "petlas.search.driver:search_together",
    "data and weights are read": "petlas.search.driver:_Run.__init__",
    "Tune is imported, and Ray is up": "petlas.search.runners.ray.runner:RayRunner.run",
    "Tune asks for a trial": "petlas.search.runners.ray.jobs:JobSearch.suggest",
    "a worker has begun with it": "petlas.search.runners.ray.jobs:JobSearch.start",
    "the step is done": "petlas.search.stages.rounds:Job.on_epoch",
}
"""What is seen in the driver: where a class or a function is there, or is first called."""
COMMAND = """
import importlib, json, sys, threading, time
phases, marks = json.loads(sys.argv.pop()), {}

def watch():
    left = dict(phases)
    while left:
        for phase, place in list(left.items()):
            module, _, path = place.partition(":")
            owner, _, name = path.rpartition(".")
            found = sys.modules.get(module)
            found = getattr(found, owner, None) if owner else found
            if found is None or not hasattr(found, name):
                continue
            del left[phase]
            if owner:
                setattr(found, name, noted(phase, getattr(found, name)))
            else:
                mark(phase)
        time.sleep(0.02)

def noted(phase, function):
    def call(*args, **kwargs):
        mark(phase)
        return function(*args, **kwargs)
    return call

def mark(phase):
    if phase not in marks:
        marks[phase] = time.time(), time.process_time()
        with open("marks.json", "w") as file:
            json.dump(marks, file)

threading.Thread(target=watch, daemon=True).start()
from petlas.search.cli import main
main()
"""


def measure(python: str, kind: str) -> dict[str, Any]:
    """Seconds from the command to the end of its only step, the processor's by process, and the phases in between."""
    with tempfile.TemporaryDirectory(prefix="start-") as scratch:
        folder = Path(scratch)
        command = [python, "-c", IMPORT]
        if kind != IMPORT:
            (folder / "c.yaml").write_text(yaml.safe_dump(CONFIG | {"resources": {"runner": kind, "gpus": 0}}))
            command = [python, "-c", COMMAND, "search", "c.yaml", "resources.concurrent=1", json.dumps(PHASES)]
        began, load = time.time(), os.getloadavg()[0]
        process = psutil.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        taken: dict[int, tuple[str, float]] = {}
        while process.poll() is None and not _done(folder):
            taken |= {pid: (name, seconds) for pid, name, seconds in _taken(process)}
            time.sleep(LOOKS_EVERY)
        if process.wait(600):
            raise RuntimeError(process.stderr.read().decode())
        ended, cpu = time.time(), dict[str, float]()
        for name, seconds in taken.values():
            cpu[name] = cpu.get(name, 0.0) + seconds
        marks = json.loads(path.read_text()) if (path := folder / "marks.json").exists() else {}
        marks = {phase: (at - began, own) for phase, (at, own) in marks.items()}
        seconds = marks["the step is done"][0] if marks else ended - began
        return {"python": python, "kind": kind, "seconds": seconds, "load": load, "cpu": cpu, "marks": marks}


def _done(folder: Path) -> bool:
    with suppress(OSError):
        return "the step is done" in (folder / "marks.json").read_text()
    return False


def _taken(process: psutil.Process) -> Iterator[tuple[int, str, float]]:
    """What the processes of a command have taken of the processor so far."""
    with suppress(psutil.Error):
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error):
                words, times = " ".join(each.cmdline()), each.cpu_times()
                server = next((name for name in SERVERS if name in words), None)
                name = "command" if each.pid == process.pid else SERVERS[server] if server else "workers"
                yield each.pid, name, times.user + times.system


SERVERS = {
    "gcs_server": "gcs and raylet",
    "raylet/raylet": "gcs and raylet",
    "monitor.py": "Ray's Python servers",
    "dashboard": "Ray's Python servers",
    "Agent": "Ray's Python servers",
    "agent": "Ray's Python servers",
}


def table(found: list[dict[str, Any]]) -> list[str]:
    """The lines of the file."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in found:
        rows.setdefault((each["python"], each["kind"]), []).append(each)
    several = len({python for python, _ in rows}) > 1
    lines = ["# From the command to the first training step", ""]
    lines += ["| what | times | median, s | least | beyond `import torch` | processor's s | others at work |"]
    lines += ["|---|---|---|---|---|---|---|"]
    middle = {key: statistics.median(each["seconds"] for each in all_of) for key, all_of in rows.items()}
    for (python, kind), all_of in rows.items():
        cpu = statistics.median(sum(each["cpu"].values()) for each in all_of)
        others = statistics.median(each["load"] for each in all_of)
        least, beyond = min(each["seconds"] for each in all_of), middle[python, kind] - middle[python, IMPORT]
        name = f"{kind}, {python}" if several else kind
        seconds = f"{middle[python, kind]:.1f} | {least:.1f} | {beyond:.1f} | {cpu:.1f} | {others:.1f}"
        lines.append(f"| {name} | {len(all_of)} | {seconds} |")
    for (_, kind), all_of in rows.items():
        if kind != IMPORT:
            lines += ["", f"## {kind}", "", "| behind the command | s | the driver's processor time |", "|---|---|---|"]
            for phase in PHASES:
                if marked := [each["marks"][phase] for each in all_of if phase in each["marks"]]:
                    at, own = (statistics.median(values) for values in zip(*marked, strict=True))
                    lines.append(f"| {phase} | {at:.1f} | {own:.1f} |")
            names = dict.fromkeys(name for each in all_of for name in each["cpu"])
            shares = [f"{n} {statistics.median(each['cpu'].get(n, 0.0) for each in all_of):.1f}" for n in names]
            lines += ["", f"Seconds of the processor until then: {', '.join(shares)}."]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--python", nargs="+", default=[sys.executable])
    parser.add_argument("--runners", nargs="+", default=["inline", "ray"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    kept = args.out.with_suffix(".jsonl") if args.out else None
    found = [json.loads(line) for line in kept.read_text().splitlines()] if kept and kept.exists() else []
    wanted = [(python, kind) for python in args.python for kind in (IMPORT, *args.runners)]
    while todo := [key for key in wanted if sum((f["python"], f["kind"]) == key for f in found) < args.repeat]:
        for python, kind in todo:
            if not found:
                measure(python, IMPORT)  # warms the disk's cache
            found.append(measure(python, kind))
            print(json.dumps(found[-1]), flush=True)
            if kept:
                with kept.open("a") as file:
                    file.write(json.dumps(found[-1]) + "\n")
                if all(any((f["python"], f["kind"]) == key for f in found) for key in wanted):
                    args.out.write_text("\n".join([*table(found), ""]))
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
