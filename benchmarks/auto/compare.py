"""`auto` against other ways to spend the same cost: test accuracy over tasks and seeds.

    PYTHONPATH=benchmarks/portfolio python benchmarks/auto/compare.py --root DATA --out runs/auto --seeds 5 \\
        > benchmarks/auto/compare.md

On the mini backbone, within 20,000 parameters, unless another one is named. Every way chooses by train and val at a
cost in R (passes over images, by those of an ordinary training), and what it chose is trained on train and val for all
epochs and tested once. What is done is kept in --out: the command goes on where it was cut off, also with more tasks,
costs, ways or seeds. --root holds vtab-1k/{emoji_group,mnist,dsprites_loc}; counts and typefaces are drawn, and the
portfolio has not seen them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from tasks import DRAWN, HELD_OUT, write

from petlas.files import write_json
from petlas.petl import MINI
from petlas.search.config import RunConfig
from petlas.search.driver import search
from petlas.search.stages.training_run import TrainingRun
from petlas.search.strategies.auto import space_of
from petlas.search.strategies.recipes import Recipe, portfolio
from petlas.search.study import StudyRecord, candidate_of, passes
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

TASKS = ("digits", "emoji_group", "mnist", "dsprites_loc", *HELD_OUT)
METHODS = (None, "lora", "ssf", "convpass", "adaptformer", "adapter", "bitfit", "vpt")
"""Of the grid; None is linear probing."""
RATES = (0.3, 1.0, 3.0)
Chosen = tuple[Candidate, float]
"""What a way chose, and what that cost in R."""


def parser_of_runs(about: str | None) -> argparse.ArgumentParser:
    """What `config_of` and `place_of` need to know.

    Args:
        about: What the command does.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="the folder that has vtab-1k")
    parser.add_argument("--out", type=Path, default=Path("runs/auto"))
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--space", default="strong")
    parser.add_argument("--backbone", default=MINI)
    parser.add_argument("--checkpoint", help="its weights, where they are a file")
    parser.add_argument("--size", type=int, help="of images; by default the backbone's own")
    parser.add_argument("--budget", type=int, default=20_000, help="parameters at most")
    return parser


def config_of(task: str, place: dict[str, Any], args: argparse.Namespace, name: str, **groups: Any) -> RunConfig:
    """The configuration of a run."""
    train = {"epochs": args.epochs, "batch_size": 32, "lr": args.lr, "warmup_epochs": max(1, args.epochs // 10)}
    data = {
        "name": f"{task}-{name}",
        "task": place,
        "backbone": {"name": args.backbone, "checkpoint": args.checkpoint, "img_size": args.size},
        "space": args.space,
        "budget": {"params": args.budget},
        "train": train,
        "protocol": {"retrain_seeds": 1},
        "resources": {"runner": "inline", "gpus": 0.0},
        "runs": str(args.out / "runs"),
    }
    return RunConfig.model_validate(data | groups)


def searched(config: RunConfig) -> Chosen:
    """By a search of petlas."""
    best = search(config)
    assert best is not None, f"{config.name}: no training came to its end"
    record = StudyRecord.read(config.folder)
    return candidate_of(best), sum(map(record.cost, record.counted()))


def of_recipe(recipe: Recipe, bench: Workbench) -> Candidate:
    """A recipe's candidate, on images as they are."""
    space = space_of(bench)
    usual = {setting.name: bench.config.train.usual(setting.name) for setting in space.settings}
    return recipe.candidate(space, bench.budget, usual)


def by_auto(make: Callable[..., RunConfig], cost: float) -> Chosen:
    """`auto`."""
    return searched(make(strategy="auto", search={"cost": cost}))


def by_trials(make: Callable[..., RunConfig], cost: float) -> Chosen:
    """`trials`: known designs at the run's own rate, as many as the cost pays for."""
    return searched(make(strategy="trials", search={"trials": int(cost)}))


def by_chance(make: Callable[..., RunConfig], cost: float) -> Chosen:
    """Random candidates, as many as the cost pays for."""
    return searched(make(strategy="trials", search={"trials": int(cost), "baselines": False, "sampler": "random"}))


def by_supernet(make: Callable[..., RunConfig], cost: float) -> Chosen:
    """`supernet`: a third of the cost for the best two by score, or for one; the rest for the weights."""
    finalists = max(1, int(cost / 3))
    config = make()
    epochs = max(1, int((cost - finalists) * config.train.epochs * 0.9))
    own = {"supernet": {"epochs": epochs, "warmup_epochs": 0, "lr": config.train.lr}}
    options = {"scores": 100, "finalists": finalists, "baselines": False}
    chosen, trained = searched(make(strategy="supernet", search=options, **own))
    return chosen, trained + epochs / config.train.epochs


def by_grid(make: Callable[..., RunConfig], cost: float) -> Chosen:
    """All methods at three rates for equally many epochs, one at least: the highest value on val."""
    bench = Workbench(make())
    train = bench.config.train
    epochs = max(1, int(cost * train.epochs / (len(METHODS) * len(RATES))))
    found: list[tuple[float, int, Candidate]] = []
    for method in METHODS:
        for rate in RATES:
            shares = ((method, 1.0),) if method else ()
            candidate = of_recipe(Recipe(shares, (("lr", rate),)), bench)
            run = TrainingRun(bench, candidate, Fidelity(epochs, bench.config.seed))
            while not run.finished:
                value = run.epoch().val
            found.append((value if math.isfinite(value) else -1.0, -bench.cost(candidate.design), candidate))
    images = len(bench.task.views["train"]), len(bench.task.views["val"])
    spent = len(found) * passes(epochs, *images) / passes(train.epochs, *images)
    return max(found, key=lambda row: row[:2])[2], spent


def by_portfolio(make: Callable[..., RunConfig], cost: float) -> Chosen:
    """The portfolio's first candidate, untried."""
    bench = Workbench(make())
    return of_recipe(next(iter(portfolio(space_of(bench), bench.shape.name))), bench), 0.0


WAYS: dict[str, Callable[[Callable[..., RunConfig], float], Chosen]] = {
    "auto": by_auto,
    "grid": by_grid,
    "trials": by_trials,
    "supernet": by_supernet,
    "random": by_chance,
    "first": by_portfolio,
}
FREE = ("first",)
"""Ways that cost nothing, and so choose the same at any cost."""


def place_of(task: str, args: argparse.Namespace) -> dict[str, Any]:
    """Where a task lies; one that is drawn is made."""
    if task in HELD_OUT | DRAWN:
        return {"name": str(write(task, args.out / "drawn"))}
    return {"name": task} if task == "digits" else {"name": task, "root": args.root}


def tested(bench: Workbench, candidate: Candidate, fidelity: Fidelity) -> float:
    """Test accuracy of a candidate, trained on train and val."""
    run = TrainingRun(bench, candidate, fidelity, "trainval", None)
    while not run.finished:
        run.epoch()
    return run.test()


def one(
    task: str, way: str, cost: float, seed: int, args: argparse.Namespace, known: dict[str, float]
) -> dict[str, Any]:
    """Choose, train on train and val, test once; what another way chose, too, is `known` by its key."""
    place = place_of(task, args)

    def make(**groups: Any) -> RunConfig:
        return config_of(task, place, args, f"{way}-{cost:g}-{seed}", seed=seed, **groups)

    candidate, spent = WAYS[way](make, cost)
    bench = Workbench(make())
    if candidate.key not in known:
        known[candidate.key] = tested(bench, candidate, Fidelity(args.epochs, seed))
    found = {"test": known[candidate.key], "R": round(spent, 2), "params": bench.cost(candidate.design)}
    return found | {"chosen": str(candidate), "key": candidate.key}


def table(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Print the mean over seeds with its standard error, for each task and cost."""
    print("| R | way | " + " | ".join(args.tasks) + " | mean | R spent |\n|---|---|" + "---|" * (len(args.tasks) + 2))
    for cost in args.costs:
        for way in args.ways:
            cells, means, spent = [], [], []
            for task in args.tasks:
                place = (task, way, 0.0 if way in FREE else cost)
                own = [row for row in rows if (row["task"], row["way"], row["cost"]) == place]
                tests = [100 * row["test"] for row in own]
                error = f" ± {stdev(tests) / math.sqrt(len(tests)):.1f}" if len(tests) > 1 else ""
                cells.append(f"{fmean(tests):.1f}{error}" if tests else "")
                means += [fmean(tests)] if tests else []
                spent += [row["R"] for row in own]
            mean = f"{fmean(means):.1f}" if len(means) == len(args.tasks) else ""
            print(f"| {cost:g} | {way} | {' | '.join(cells)} | {mean} | {fmean(spent) if spent else 0:.2f} |")


def main() -> None:
    parser = parser_of_runs(__doc__)
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    parser.add_argument("--ways", nargs="*", default=[*WAYS], choices=[*WAYS])
    parser.add_argument("--costs", type=float, nargs="*", default=[2.0, 6.0])
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    file = args.out / "compare.json"
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    for seed in range(args.seeds):
        for task in args.tasks:
            for cost in args.costs:
                for way in args.ways:
                    named = {"task": task, "way": way, "cost": 0.0 if way in FREE else cost, "seed": seed}
                    if not any(named.items() <= row.items() for row in rows):
                        same = [row for row in rows if (row["task"], row["seed"]) == (task, seed)]
                        known = {row["key"]: row["test"] for row in same}
                        rows.append(named | one(task, way, cost, seed, args, known))
                        write_json(file, rows)
    table(rows, args)


if __name__ == "__main__":
    main()
