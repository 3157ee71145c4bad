"""How near the cost model is to what a training step costs: random designs of a space, none of them measured for it.

    python benchmarks/engine/cost_model.py [CONFIG [key=value ...]] [--designs N] [--out FILE]

The model is fitted to the same designs as that of a run. These and the random ones are measured in the same rounds, so
that work of others beside it, which makes all steps slow for a while, is no error of the model. A `petlas plan` of the
same configuration shows the model's figures of the smallest and the largest design.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np

from petlas.search.config import load_config
from petlas.search.cost_model import cost_model, features, fit, samples
from petlas.search.timed_steps import TimedSteps
from petlas.search.workbench import Workbench


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", nargs="?", default="demo")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--designs", type=int, default=12)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    bench = Workbench(load_config(args.config, [*args.overrides, f"runs={tempfile.mkdtemp()}"]))
    rng, depth, rows = np.random.default_rng(0), bench.shape.depth, []
    errors: dict[str, list[float]] = {"flops": [], "seconds": [], "bytes": []}
    fitted = list(samples(bench.space.largest))
    drawn = [bench.space.sample(rng, bench.budget).design for _ in range(args.designs)]
    measured = TimedSteps(bench).measure_all([*fitted, *drawn])
    shares = fit([(features(d, depth), cost) for d, cost in zip(fitted, measured[: len(fitted)], strict=True)])
    model = cost_model(bench, shares)
    for design, found in zip(drawn, measured[len(fitted) :], strict=True):
        said = model.cost(design)
        for kind, values in errors.items():
            values.append(getattr(said, kind) / getattr(found, kind) - 1)
        text = " ".join(f"{p.method}.{p.block}:{p.size}" for p in design.placements)
        rows.append(
            f"| {text} | {found.seconds * 1e3:.2f} | " + " | ".join(f"{e[-1]:+.0%}" for e in errors.values()) + " |"
        )
    worst = ", ".join(
        f"{kind} {statistics.median(map(abs, values)):.0%} in the median, {max(map(abs, values)):.0%} at most"
        for kind, values in errors.items()
    )
    down, columns = bench.shape.grid
    where = f"{bench.shape.name}, {down} x {columns} patches, {bench.device.type}, autocast {bench.autocast}"
    head = f"{where}: off by {worst}."
    lines = [head, "", "| design | ms for an image | flops | time | memory |", "|---|---|---|---|---|", *rows]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
