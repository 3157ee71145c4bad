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

from petlas.petl import input_config
from petlas.petl.backbone import MINI
from petlas.search.config import RunConfig
from petlas.search.evolution import EvolutionSampler
from petlas.search.scoring import Scorer
from petlas.search.supernet import SupernetRun, load_supernet, space_and_budget
from petlas.search.training import load_split, open_run_task, pick_device


def run_config(args: argparse.Namespace, folder: str) -> RunConfig:
    """The run whose designs are scored."""
    return RunConfig.model_validate(
        {
            "name": "sharing",
            "task": {"name": args.task, "root": args.root},
            "backbone": {"name": args.backbone, "checkpoint": args.checkpoint, "img_size": args.img_size},
            "space": {"methods": {m: {"blocks": "all", "sizes": [0, 1, 5, 10]} for m in ("vpt", "lora", "adapter")}},
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
        config = run_config(args, folder)
        config.folder.mkdir(parents=True)
        run = SupernetRun(config)
        while not run.finished:
            run.epoch()
        supernet = load_supernet(config)
    data = load_split(config, open_run_task(config), "val", input_config(supernet.model), pick_device())
    scorers = {cache: Scorer(supernet, data, int(cache * 2**30)) for cache in (0.0, *args.caches)}
    space, budget = space_and_budget(config)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=EvolutionSampler(space, budget, 0))
    seconds = dict.fromkeys(scorers, 0.0)
    for number in range(args.after + args.designs):
        trial = study.ask()
        design = space.suggest(trial, budget)
        scores = set()
        for cache, scorer in scorers.items():
            start = time.perf_counter()
            if cache or number >= args.after:
                scores.add(scorer.score(design))
            seconds[cache] += time.perf_counter() - start if number >= args.after else 0.0
        (score,) = scores  # sharing must not change one
        study.tell(trial, [score, float(budget.cost(design))])
    print(f"| designs on {len(data)} images | cache, GiB | seconds | times faster |")
    print("|---|---|---|---|")
    for cache, spent in seconds.items():
        print(f"| {args.designs} | {cache:g} | {spent:.1f} | {seconds[0.0] / spent:.2f} |")


if __name__ == "__main__":
    main()
