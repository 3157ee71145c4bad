"""What a scored design costs beyond its forward passes, and a short training beyond itself, at steady state.

    python benchmarks/cluster/overhead.py --out benchmarks/cluster/overhead.md

Digits and the mini backbone, whose passes are short, so that the rest shows: Ray Tune, the sampler and the study. The
time of a trial is that between the ends of consecutive trials, in the second half of the search; the work of it, its
forward passes or its training with all that it needs to begin, is timed in the worker. Beside others at work these
times are too long, and the processor's time tells more: what the driver took of it from one end to the next, through
Ray all of it overhead. Rows that the file has are not measured again.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from petlas.petl import MINI
from petlas.search import search
from petlas.search.config import RunConfig
from petlas.search.stages.rounds import Turns
from petlas.search.study import SCORE, SEARCH, StudyRecord
from petlas.search.study.trials import complete

RUNNERS = {"inline": "inline", "ray": "ray, one actor"}
TITLE = "# What trials cost beyond their work"
HEAD = (
    "| runner | stage | trials | ms for a trial | of which work | overhead: mean | median | p95 "
    "| driver's CPU: mean | p95 | others at work |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def run_config(runner: str, strategy: str, settings: dict[str, Any], folder: str) -> RunConfig:
    """A run with one trial at a time."""
    return RunConfig.model_validate(
        {
            "name": "overhead",
            "task": "digits",
            "backbone": MINI,
            "space": "noah",
            "budget": {"params": 40_000},
            "strategy": strategy,
            "supernet": {"epochs": 1, "warmup_epochs": 0},
            "search": {"baselines": False} | settings,
            "train": {"epochs": 1, "warmup_epochs": 0},
            "resources": {"runner": runner, "concurrent": 1, "cache_gb": 0},
            "runs": folder,
        }
    )


@contextmanager
def clocked() -> Iterator[list[float]]:
    """The processor's time that this process had taken whenever a job of a search came to its end in here."""
    ends: list[float] = []
    take_back = Turns.take_back

    def noted(turns: Turns, job: Any) -> None:
        take_back(turns, job)
        ends.append(time.process_time())

    Turns.take_back = noted  # type: ignore[method-assign]
    try:
        yield ends
    finally:
        Turns.take_back = take_back  # type: ignore[method-assign]


def figures(config: RunConfig, stage: str, count: int) -> str:
    """How many trials of a stage a search has, and the milliseconds of one: whole, its work, beyond, the driver's."""
    with clocked() as ends:
        search([config])
    trials = complete(StudyRecord.read(config.folder).counted(stage))
    done = sorted(trials, key=lambda trial: trial.datetime_complete)
    late = done[len(done) // 2 :]
    whole = np.array([(b.datetime_complete - a.datetime_complete).total_seconds() for a, b in pairwise(late)])
    work = np.array([trial.user_attrs["seconds"] for trial in late[1:]])
    beyond, before = whole - work, len(ends) - count - (1 if stage == SCORE else 0)  # behind scores is one finalist
    own = np.diff(ends[before : before + count][count // 2 :])
    shown = (whole.mean(), work.mean(), beyond.mean(), np.median(beyond), np.quantile(beyond, 0.95))
    cpu = (own.mean(), np.quantile(own, 0.95))
    return " | ".join([str(len(done)), *(f"{1000 * seconds:.0f}" for seconds in (*shown, *cpu))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=int, default=100, help="designs to score; 0 leaves them out")
    parser.add_argument("--trials", type=int, default=40, help="designs to train for one epoch; 0 leaves them out")
    parser.add_argument("--sampler", default="evolution")
    parser.add_argument("--runners", nargs="*", choices=RUNNERS, default=list(RUNNERS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    kinds = {
        SCORE: ("supernet", args.scores, {"scores": args.scores, "finalists": 1}),
        SEARCH: ("trials", args.trials, {"trials": args.trials}),
    }
    rows = [line for line in _lines(args.out) if line.startswith(tuple(f"| {title} |" for title in RUNNERS.values()))]
    for runner, title in RUNNERS.items():
        for stage, (strategy, count, settings) in kinds.items():
            first = f"| {title} | {stage} |"
            if not count or runner not in args.runners or any(row.startswith(first) for row in rows):
                continue
            with tempfile.TemporaryDirectory() as folder:
                config = run_config(runner, strategy, settings | {"sampler": args.sampler}, folder)
                before = os.getloadavg()[1]
                told = figures(config, stage, count)
            rows.append(f"{first} {told} | {max(0.0, (before + os.getloadavg()[1]) / 2 - 1):.1f} |")
            print(HEAD if len(rows) == 1 else "", rows[-1], sep="\n", flush=True)
            if args.out:
                args.out.write_text("\n".join([TITLE, "", HEAD, *rows, ""]))


def _lines(path: Path | None) -> list[str]:
    return path.read_text().splitlines() if path and path.exists() else []


if __name__ == "__main__":
    main()
