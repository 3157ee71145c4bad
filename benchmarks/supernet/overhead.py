"""What a scored design costs beyond its forward passes, and a short training beyond itself, at steady state.

    python benchmarks/supernet/overhead.py > benchmarks/supernet/overhead.md

Digits and the mini backbone, whose passes are short, so that the rest shows: Ray Tune, the sampler and the study. The
time of a trial is that between the ends of consecutive trials, in the second half of the search; the work of it, its
forward passes or its training with all that it needs to begin, is timed in the worker.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import pairwise
from typing import Any

import numpy as np

from petlas.petl import MINI
from petlas.search import search
from petlas.search.config import RunConfig
from petlas.search.study import SCORE, SEARCH, StudyRecord
from petlas.search.study.trials import complete

RUNNERS = {"inline": "inline", "ray": "ray, one actor"}


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


def figures(config: RunConfig, stage: str) -> str:
    """How many trials of a stage a search has, and the milliseconds of one: whole, its work, and beyond."""
    search([config])
    trials = complete(StudyRecord.read(config.folder).counted(stage))
    done = sorted(trials, key=lambda trial: trial.datetime_complete)
    late = done[len(done) // 2 :]
    whole = np.array([(b.datetime_complete - a.datetime_complete).total_seconds() for a, b in pairwise(late)])
    work = np.array([trial.user_attrs["seconds"] for trial in late[1:]])
    beyond = whole - work
    shown = (whole.mean(), work.mean(), beyond.mean(), np.median(beyond), np.quantile(beyond, 0.95))
    return " | ".join([str(len(done)), *(f"{1000 * seconds:.0f}" for seconds in shown)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=int, default=300, help="designs to score; 0 leaves them out")
    parser.add_argument("--trials", type=int, default=0, help="designs to train for one epoch; 0 leaves them out")
    parser.add_argument("--sampler", default="evolution")
    parser.add_argument("--runners", nargs="*", choices=RUNNERS, default=list(RUNNERS))
    args = parser.parse_args()
    kinds = {
        SCORE: ("supernet", args.scores, {"scores": args.scores, "finalists": 1}),
        SEARCH: ("trials", args.trials, {"trials": args.trials}),
    }
    print("| runner | stage | trials | ms for a trial | of which work | overhead: mean | median | p95 |")
    print("|---|---|---|---|---|---|---|---|")
    for stage, (strategy, count, settings) in kinds.items():
        for runner, title in RUNNERS.items():
            if count and runner in args.runners:
                with tempfile.TemporaryDirectory() as folder:
                    config = run_config(runner, strategy, settings | {"sampler": args.sampler}, folder)
                    print(f"| {title} | {stage} | {figures(config, stage)} |", flush=True)


if __name__ == "__main__":
    main()
