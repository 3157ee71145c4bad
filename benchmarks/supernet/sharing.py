"""Seconds of scoring the designs of an evolution, each whole, and with shared first blocks in caches of some sizes.

    python benchmarks/supernet/sharing.py > benchmarks/supernet/sharing.md
    python benchmarks/supernet/sharing.py --task emoji_group --root DATA --backbone vit_small_patch14_dinov2 \\
        --checkpoint dinov2_vits14_fp16.safetensors --img-size 70

A supernet of NOAH's three methods is trained for a few epochs, and its scores on the 200 validation images drive the
evolution. After its first designs, each further one is scored in all ways, one after the other. Scores must be equal.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import optuna
import torch

from petlas.petl import MINI
from petlas.search.config import RunConfig
from petlas.search.samplers import make_sampler
from petlas.search.stages.scoring import Scorer
from petlas.search.stages.supernet import SupernetRun, load_supernet
from petlas.search.workbench import Workbench


def run_config(args: argparse.Namespace, folder: str) -> RunConfig:
    """The run whose designs are scored."""
    return RunConfig.model_validate(
        {
            "name": "sharing",
            "task": {"name": args.task, "root": args.root},
            "backbone": {"name": args.backbone, "checkpoint": args.checkpoint, "img_size": args.img_size},
            "space": "noah",
            "budget": {"params": args.budget},
            "strategy": "supernet",
            "supernet": {"epochs": args.epochs, "warmup_epochs": 1, "lr": 1e-3},
            "runs": folder,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--root")
    parser.add_argument("--backbone", default=MINI)
    parser.add_argument("--checkpoint")
    parser.add_argument("--img-size", type=int)
    parser.add_argument("--budget", type=int, help="parameters of a design")
    parser.add_argument("--epochs", type=int, default=4, help="of the supernet")
    parser.add_argument("--after", type=int, default=150, help="designs that are scored before")
    parser.add_argument("--designs", type=int, default=64)
    parser.add_argument("--caches", type=float, nargs="+", default=[0.05, 0.1, 0.2, 1.0], help="GiB")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench(run_config(args, folder))
        run = SupernetRun(bench)
        while not run.finished:
            run.epoch()
        supernet = load_supernet(bench)
    data = bench.batches(bench.task.views["val"])
    scorers = {gib: Scorer(supernet, data, bench.objective, int(gib * 2**30)) for gib in (0.0, *args.caches)}
    sampler = make_sampler("evolution", bench.space, bench.budget, seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    seconds = dict.fromkeys(scorers, 0.0)
    for number in range(args.after + args.designs):
        trial = study.ask()
        design = bench.space.suggest(trial, bench.budget).design
        scores = set()
        for cache, scorer in scorers.items():
            start = time.perf_counter()
            if cache or number >= args.after:
                scores.add(scorer.score(design))
            seconds[cache] += time.perf_counter() - start if number >= args.after else 0.0
        (score,) = scores  # sharing must not change one
        study.tell(trial, [score, float(bench.cost(design))])
    print(f"| designs on {len(data)} images | cache, GiB | seconds | times faster |")
    print("|---|---|---|---|")
    for cache, spent in seconds.items():
        print(f"| {args.designs} | {cache:g} | {spent:.1f} | {seconds[0.0] / spent:.2f} |")


if __name__ == "__main__":
    main()
