"""What is lost where: the designs that ways chose in compare.py, at other rates than they were chosen with.

    PYTHONPATH=benchmarks/portfolio:benchmarks/auto python benchmarks/auto/oracles.py --root DATA --out runs/auto

For each task of --out/compare.json and its first seed, the designs of `auto` and `first` are trained on train and val
for all epochs at each rate and tested. The best rate of a design is the oracle of its settings; the best of all is the
oracle of the choice. What is in --out/oracles.json is not done again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from compare import config_of, place_of, tested

from petlas.files import write_json
from petlas.search.strategies.auto import space_of
from petlas.search.strategies.recipes import portfolio
from petlas.search.study import StudyRecord, candidate_of
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

RATES = (3e-3, 5.2e-3, 9e-3, 1.56e-2)


def designs(bench: Workbench, args: argparse.Namespace, task: str) -> dict[str, Candidate]:
    """What `auto` chose at the highest cost, and the portfolio's first."""
    space, record = space_of(bench), StudyRecord.read(args.out / "runs" / f"{task}-auto-6-0")
    best = record.best()
    first = next(iter(portfolio(space))).candidate(space, bench.budget, {"lr": args.lr})
    return ({} if best is None else {"auto": candidate_of(best)}) | {"first": first}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="the folder that has vtab-1k")
    parser.add_argument("--out", type=Path, default=Path("runs/auto"))
    parser.add_argument("--tasks", nargs="*", default=["counts", "mnist"])
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--space", default="strong")
    args = parser.parse_args()
    torch.set_num_threads(1)
    file = args.out / "oracles.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    for task in args.tasks:
        bench = Workbench(config_of(task, place_of(task, args), args, "oracles"))
        for name, chosen in designs(bench, args, task).items():
            for rate in (*RATES, dict(chosen.settings)["lr"]):
                row = {"task": task, "way": name, "design": str(chosen.design), "lr": rate}
                if any(row.items() <= known.items() for known in rows):
                    continue
                candidate = Candidate(chosen.design, (("lr", rate),))
                rows.append(row | {"test": tested(bench, candidate, Fidelity(args.epochs, 0))})
                write_json(file, rows)
                print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
