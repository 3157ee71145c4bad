"""How long it takes from `petlas search` to the first training step, next to `import torch`.

    python benchmarks/cluster/start.py --out benchmarks/cluster/start.md

A search of one trial of one epoch of one step, on the digits with the mini backbone. The first step counts as done when
the trial is, so that a measurement on 200 images is included. All kinds are run in turns, each in a process of its own.
`--python` compares other installations: their interpreters.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from petlas.search.study import StudyRecord

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


def importing(python: str) -> float:
    """Seconds of a process that imports torch."""
    began = time.time()
    subprocess.run([python, "-c", "import torch"], check=True, cwd="/")
    return time.time() - began


def searching(python: str, runner: str) -> float:
    """Seconds from the command to the end of its only training step."""
    with tempfile.TemporaryDirectory(prefix="start-") as scratch:
        folder = Path(scratch)
        path = folder / "c.yaml"
        path.write_text(yaml.safe_dump(CONFIG | {"resources": {"runner": runner, "concurrent": 1, "gpus": 0}}))
        began = time.time()
        code = "from petlas.search.cli import main; main()"
        command = [python, "-c", code, "search", str(path)]
        subprocess.run(command, check=True, cwd=folder, capture_output=True)
        (trial,) = StudyRecord.read(folder / "runs/run").trials()
        assert trial.datetime_complete is not None
        return trial.datetime_complete.timestamp() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--python", nargs="+", default=[sys.executable])
    parser.add_argument("--runners", nargs="+", default=["inline", "ray"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    took: dict[tuple[str, str], list[float]] = {}
    for number in range(args.repeat + 1):  # the first one warms the disk's cache
        for python in args.python:
            for kind in ("import torch", *args.runners):
                seconds = importing(python) if kind == "import torch" else searching(python, kind)
                print(number, python, kind, round(seconds, 1), flush=True)
                if number:
                    took.setdefault((python, kind), []).append(seconds)
    lines = [
        "# From the command to the first training step",
        "",
        "| what | median, s | least | beyond `import torch` |",
    ]
    lines += ["|---|---|---|---|"]
    for (python, kind), seconds in took.items():
        beyond = statistics.median(seconds) - statistics.median(took[python, "import torch"])
        name = kind if len(args.python) == 1 else f"{kind}, {python}"
        lines.append(f"| {name} | {statistics.median(seconds):.1f} | {min(seconds):.1f} | {beyond:.1f} |")
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
