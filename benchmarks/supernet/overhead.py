"""What a scored design costs beyond its forward passes, through Ray Tune, at steady state.

    python benchmarks/supernet/overhead.py > benchmarks/supernet/overhead.md

Digits and the mini backbone, whose forward passes are short, so that the rest shows. The time of a design is that
between the ends of consecutive trials, in the second half of the search; the forward passes are timed in the worker.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

from petlas.petl.backbone import MINI
from petlas.search import inline_runner, ray_runner
from petlas.search.config import RunConfig
from petlas.search.scores import ScoreStage
from petlas.search.session import Session
from petlas.search.supernet import SupernetRun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=int, default=300)
    parser.add_argument("--sampler", default="evolution")
    args = parser.parse_args()
    print("| runner | designs | ms for a design | of which forward passes | overhead: mean | median |")
    print("|---|---|---|---|---|---|")
    for name, runner in (("inline", inline_runner), ("ray, one actor", ray_runner)):
        with tempfile.TemporaryDirectory() as folder:
            config = RunConfig.model_validate(
                {
                    "name": "overhead",
                    "task": "digits",
                    "backbone": MINI,
                    "space": {
                        "methods": {m: {"blocks": "all", "sizes": [0, 1, 5, 10]} for m in ("vpt", "lora", "adapter")}
                    },
                    "budget": {"params": 40_000},
                    "strategy": "supernet",
                    "supernet": {"epochs": 1, "warmup_epochs": 0},
                    "search": {"scores": args.scores, "sampler": args.sampler},
                    "train": {"epochs": 1, "warmup_epochs": 0},
                    "resources": {"concurrent": 1, "cache_gb": 0},
                    "runs": folder,
                }
            )
            Path(config.folder).mkdir(parents=True)
            SupernetRun(config).epoch()
            session = Session(config)
            with runner.opened(config) as opened:
                opened.run(ScoreStage(session))
            done = sorted(session.record.scored(), key=lambda trial: trial.datetime_complete)
        late = done[len(done) // 2 :]
        whole = [(b.datetime_complete - a.datetime_complete).total_seconds() for a, b in pairwise(late)]
        passes = [trial.user_attrs["seconds"] for trial in late[1:]]
        beyond = [1000 * (a - b) for a, b in zip(whole, passes, strict=True)]
        figures = (1000 * mean(whole), 1000 * mean(passes), mean(beyond), median(beyond))
        print(f"| {name} | {len(done)} | {' | '.join(f'{figure:.0f}' for figure in figures)} |", flush=True)


if __name__ == "__main__":
    main()
