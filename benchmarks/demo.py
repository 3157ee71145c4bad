"""How often what the demo's search finds beats the best baseline on test: the demo once more with other seeds.

    python benchmarks/demo.py [--seeds 10] [--runs FOLDER] [--out benchmarks/demo.md]

A seed draws the candidates, the order of the images and all that is random; the split of the digits is the same. Runs
that are there are gone on with, or read, so that the command can be cut off and repeated. One trial at a time in this
process: `make demo` has as many at once as there are cores, which moves what is drawn.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from petlas.search import find_run, load_config, retrain, search


@dataclass(frozen=True)
class Seed:
    """What came of a seed.

    Args:
        seed: The run's.
        found: Accuracy on test of what was found.
        text: Its design.
        best: Accuracy on test of the best baseline.
        baseline: Which it is.
    """

    seed: int
    found: float
    text: str
    best: float
    baseline: str

    @property
    def row(self) -> str:
        """A line of the table."""
        gain = 100 * (self.found - self.best)
        cells = (f"{100 * self.found:.1f}", f"{100 * self.best:.1f}", f"{gain:+.1f}", self.baseline, self.text)
        return f"| {self.seed} | {' | '.join(cells)} |"


def demo(seed: int, runs: Path) -> Seed:
    """Search and retrain, unless that was done; the test split is read once.

    Args:
        seed: The run's.
        runs: Where its folder is.
    """
    file = runs / f"seed-{seed}.json"
    if not file.is_file():
        own = [f"name=seed-{seed}", f"seed={seed}", f"runs={runs}"]
        config = load_config("demo", [*own, "resources.runner=inline", "resources.concurrent=1"])
        search([config])
        result = retrain(find_run(str(config.folder)), baselines=True).to_dict()
        file.write_text(json.dumps(result), encoding="utf-8")
    return _read(seed, json.loads(file.read_text(encoding="utf-8")))


def _read(seed: int, result: dict[str, Any]) -> Seed:
    best = max(result["baselines"], key=lambda outcome: outcome["test_mean"])
    return Seed(seed, result["test_mean"], _named(result), best["test_mean"], _named(best))


def _named(outcome: dict[str, Any]) -> str:
    sizes: dict[str, list[str]] = {}
    for placement in outcome["design"]["placements"]:
        sizes.setdefault(placement["method"], []).append(str(placement.get("size") or ""))
    return " + ".join(f"{method} {','.join(filter(None, own))}".strip() for method, own in sizes.items()) or "linear"


def table(seeds: list[Seed]) -> str:
    """What came of all seeds."""
    wins, ties = sum(s.found > s.best for s in seeds), sum(s.found == s.best for s in seeds)
    gain = 100 * mean(s.found - s.best for s in seeds)
    head = f"`found` beats the best of seven baselines on test with {wins} of {len(seeds)} seeds"
    lines = [
        f"{head}{f', and equals it with {ties}' if ties else ''}; by {gain:+.1f} points in the mean.",
        "",
        "| seed | found | best baseline | points | which | what was found |",
        "|---|---|---|---|---|---|",
        *(seed.row for seed in seeds),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--runs", type=Path, default=Path("runs/demo-seeds"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    done = []
    for seed in range(args.seeds):
        done.append(demo(seed, args.runs))
        text = table(done)
        print(text, flush=True)
        if args.out:
            args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
