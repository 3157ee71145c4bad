"""How large the report's page is and how long it takes, for a made study of scores and trainings on ViT-B/16.

    python benchmarks/reports/size.py > benchmarks/reports/size.md

The study is NOAH's: designs of LoRA, adapters and prompts on twelve blocks, 800 scores, 64 trainings of 100 epochs of
which halving stopped two in three. Values are drawn; everything else is as a search writes it. With `--keep FOLDER`
the run folders stay, to be looked at.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from PIL import Image

from petlas.datasets import View
from petlas.files import write_bytes, write_json, write_text
from petlas.petl import Design, Placement
from petlas.search.config import RunConfig, dump_config, load_config
from petlas.search.objectives import Metric
from petlas.search.predictions import About, Predictions, keep_pictures, predictions_name
from petlas.search.reports.page import PAGE_SECTIONS, write_page
from petlas.search.reports.page.run import RunView
from petlas.search.study import FINALIST, RANKING, SCORE, SEARCH, Ending, Entry, StudyRecord
from petlas.search.training.fidelity import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate
from petlas.spaces.draw import sample_design

EPOCHS = 100
STOPS = (11, 33)
CLASSES, TEST = 47, 1880


def make_run(folder: Path, scores: int, trainings: int) -> RunConfig:
    """A run folder as a search and a retraining leave it.

    Args:
        folder: Where runs are.
        scores: How many designs are scored.
        trainings: How many are trained.
    """
    name = f"{scores}-{trainings}"
    config = load_config("noah", [f"runs={folder}", f"name={name}", "budget.params=640000"])
    write_text(config.folder / "config.yaml", dump_config(config))
    bench, rng = Workbench(config), np.random.default_rng(0)
    record = StudyRecord.create(config.folder)
    images, metric = {"train": 800, "val": 200}, Metric("accuracy", paired=True).to_dict()
    record.claim({"identity": {}, "epochs": EPOCHS, "classes": CLASSES, "images": images, "metric": metric})
    record.spend(36_000)
    designs = [sample_design(bench.space, rng, bench.budget) for _ in range(max(scores, trainings))]
    worth = {design: rng.normal(0.7, 0.03) for design in designs}

    def add(design: Design, stage: str, epochs: int, reached: int) -> None:
        entry = Entry(Candidate(design), Fidelity(epochs, 0), stage, bench.cost(design))
        number, value = record.begin(entry, {}, {}, {}), worth[design]
        for epoch in range(1, reached + 1):
            value = float(np.round((worth[design] + rng.normal(0, 0.01)) * (1 - np.exp(-epoch / 10)) * 200) / 200)
            record.report(number, epoch, value)
        record.finish(number, Ending(reached, float(value), 0.4 if stage == SCORE else 9.0 * reached))

    for design in designs[:scores]:
        add(design, SCORE, 0, 0)
    for index, design in enumerate(designs[:trainings]):
        stage = (RANKING if index % 2 else FINALIST) if scores else SEARCH
        add(design, stage, EPOCHS, EPOCHS if index % 3 == 0 or stage == RANKING else STOPS[index % 2])
    _retrained(config, record, rng)
    sites = [{name: float(rng.gamma(2.0)) for name in ("qkv", "proj", "fc1", "fc2")} for _ in range(12)]
    write_json(config.folder / "sensitivity.json", {"sites": sites})
    return config


def _retrained(config: RunConfig, record: StudyRecord, rng: np.random.Generator) -> None:
    """The best design, and beside it a baseline, with three seeds each on as many test images as DTD has."""
    best, blocks = record.best(), range(12)
    assert best is not None
    chosen = {name: best.user_attrs[name] for name in ("design", "settings", "params")}
    other = Design.of([Placement("lora", block, 8) for block in blocks], config.backbone.name).to_dict()
    targets = rng.integers(CLASSES, size=TEST)
    outcomes = []
    for made, name, share in ((chosen, "found", 0.71), ({"design": other, "params": 294_912}, "lora", 0.69)):
        key = Candidate.from_dict({**made["design"], "settings": {}}).key
        tests = []
        for seed in range(3):
            said = np.where(rng.random(TEST) < share, targets, (targets + rng.integers(1, 4, TEST)) % CLASSES)
            sure, about = rng.random(TEST).astype(np.float32), About(name, key, seed, "test")
            names = tuple(f"images/{kind:02}/{n:05}.jpg" for n, kind in enumerate(targets))
            kept = Predictions(about, tuple(f"texture {k}" for k in range(CLASSES)), names, targets, said, sure)
            write_bytes(config.folder / predictions_name(key, seed), kept.to_bytes())
            tests.append(float(1 - kept.wrong.mean()))
        mean = {"test_mean": float(np.mean(tests)), "test_std": float(np.std(tests, ddof=1))}
        outcomes.append(
            {"settings": {}} | made | mean | {"tests": tests, "seeds": [0, 1, 2], "name": name, "val": None}
        )
    write_json(config.folder / "best" / "metrics.json", outcomes[0] | {"val": best.values[0]})
    write_json(config.folder / "baselines.json", outcomes[1:])
    keep_pictures(config.folder, View.whole(cast(Any, _Noise()), targets), "test", "")


class _Noise:
    """Images of noise, 224 pixels wide."""

    def __len__(self) -> int:
        return TEST

    def image(self, index: int) -> Image.Image:
        """One of them."""
        return Image.fromarray(np.random.default_rng(index).integers(0, 256, (224, 224, 3), dtype=np.uint8))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="where run folders stay")
    keep = parser.parse_args().keep
    print("# Size and seconds of `petlas report`\n\nMade by `python benchmarks/reports/size.py` on one core.\n")
    print("| scores | trainings | page, kB | seconds of CPU, the imports aside |\n|---|---|---|---|")
    parts: dict[str, int] = {}
    with TemporaryDirectory() as scratch:
        write_page([str(make_run(keep or Path(scratch), 0, 2).folder)])  # whose imports are not counted
        for scores, trainings in ((0, 16), (0, 64), (800, 64)):
            config = make_run(keep or Path(scratch), scores, trainings)
            start = time.process_time()
            page = write_page([str(config.folder)])
            took = time.process_time() - start
            print(f"| {scores} | {trainings} | {page.stat().st_size / 1000:,.0f} | {took:.1f} |", flush=True)
            parts = sizes(RunView.of(config))
    print("\nOf the last: plotly.js is 527 kB, and\n\n| section | kB |\n|---|---|")
    for title, size in parts.items():
        print(f"| {title} | {size / 1000:,.0f} |")


def sizes(view: RunView) -> dict[str, int]:
    """The bytes of each section of a run's page."""
    from petlas.lazy import look_up

    return {title: len(look_up(place)(view).encode()) for title, place in PAGE_SECTIONS.items()}


if __name__ == "__main__":
    main()
