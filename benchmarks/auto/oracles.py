"""What is lost where: what ways chose in compare.py, at other rates and on images that are changed in other ways.

    PYTHONPATH=benchmarks/portfolio:benchmarks/auto python benchmarks/auto/oracles.py --root DATA --out runs/auto

For each task of --out/compare.json and its first seed, the designs of `auto` and `first` are trained on train and val
for all epochs with each of these settings and tested. The best of a design's is the oracle of its settings; the best of
all is the oracle of the choice. What is in --out/oracles.json is not done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import torch
from compare import config_of, of_recipe, parser_of_runs, place_of, tested

from petlas.files import write_json
from petlas.search.strategies.auto import space_of
from petlas.search.strategies.recipes import portfolio
from petlas.search.study import StudyRecord, candidate_of
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

RATES = (3e-3, 5.2e-3, 9e-3, 1.56e-2)
CHANGES = [{"hflip": hflip, "shift": shift} for hflip in (0.0, 0.5) for shift in (0.0, 0.08)]


def designs(bench: Workbench, args: argparse.Namespace, task: str) -> dict[str, Candidate]:
    """What `auto` chose at the highest cost, and the portfolio's first."""
    best = StudyRecord.read(args.out / "runs" / f"{task}-auto-6-0").best()
    first = of_recipe(next(iter(portfolio(space_of(bench), bench.shape.name))), bench)
    return ({} if best is None else {"auto": candidate_of(best)}) | {"first": first}


def variants(chosen: Candidate) -> Iterator[Candidate]:
    """At other rates, and on images that are changed in other ways."""
    for own in (*({"lr": rate} for rate in RATES), *CHANGES):
        yield chosen.with_settings(own)


def main() -> None:
    parser = parser_of_runs(__doc__)
    parser.add_argument("--tasks", nargs="*", default=["counts", "mnist"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    file = args.out / "oracles.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    for task in args.tasks:
        bench = Workbench(config_of(task, place_of(task, args), args, "oracles"))
        for name, chosen in designs(bench, args, task).items():
            for candidate in (chosen, *variants(chosen)):
                row = {"task": task, "way": name, "candidate": str(candidate), "key": candidate.key}
                if not any(row.items() <= known.items() for known in rows):
                    rows.append(row | {"test": tested(bench, candidate, Fidelity(args.epochs, 0))})
                    write_json(file, rows)


if __name__ == "__main__":
    main()
