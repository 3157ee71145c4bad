"""Single methods on a backbone, and what `auto` finds at 2 R: test accuracy on emoji_group.

    python benchmarks/mini_backbone/families.py --root DATA --out runs/families > benchmarks/mini_backbone/families.md
    python benchmarks/mini_backbone/families.py --root DATA --out runs/lite0 --backbones tf_efficientnet_lite0 \\
        --checkpoint FILE.pth --size 96 --single linear bitfit ln_tune conv_adapter lora --only-single \\
        > benchmarks/methods/lite0.md

Every way learns with one seed from the same 1,000 images in the end and is tested once: the single methods at their
default sizes and the run's rate, untuned; what `auto` chose by 800 of them and 200 of val, by `petlas retrain`. Then
its adapter file labels the test images as files: the last column says for how many it is right. The best single method
is picked by test, which no user can: it is what a search is measured by, and has an advantage. A share of 906 images
has a standard error of 1.6 points. What is done is kept in --out: the command goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from petlas.datasets.lists import read_list
from petlas.files import write_json
from petlas.petl import DesignError, everywhere, read_adapter_info
from petlas.search import api
from petlas.search.config import RunConfig
from petlas.search.stages.training_run import TrainingRun
from petlas.search.study import StudyRecord, candidate_of
from petlas.search.training import Fidelity
from petlas.search.workbench import Workbench
from petlas.spaces import Candidate

TASK = "emoji_group"
SINGLE = ("linear", "bitfit", "ln_tune", "lora", "adapter", "ssf", "convpass", "conv_adapter")
SPACE = {
    "lora": {"blocks": "all", "sizes": [0, 2, 4, 8, 16], "options": {"targets": "fc1,fc2"}},
    "adapter": {"blocks": "all", "sizes": [0, 4, 8, 16]},
    "convpass": {"blocks": "all", "sizes": [0, 4, 8, 16]},
    "ssf": {"blocks": "backbone"},
    "bitfit": {"blocks": "backbone"},
}


def config_of(backbone: str, args: argparse.Namespace) -> RunConfig:
    """The configuration of all runs on a backbone."""
    train = {"epochs": args.epochs, "batch_size": 32, "lr": args.lr, "warmup_epochs": max(1, args.epochs // 10)}
    data: dict[str, Any] = {
        "name": f"emoji-{backbone}",
        "task": {"name": TASK, "root": args.root},
        "backbone": {"name": backbone, "checkpoint": args.checkpoint, "img_size": args.size},
        "space": {"methods": SPACE},
        "budget": {"params": args.budget},
        "strategy": "auto",
        "search": {"cost": 2.0},
        "train": train,
        "protocol": {"retrain_seeds": 1},
        "resources": {"runner": "inline", "gpus": 0.0},
        "runs": str(args.out),
    }
    return RunConfig.model_validate(data)


def single(bench: Workbench, method: str) -> list[str]:
    """Train one method with its usual design on train and val, and test it."""
    try:
        design = everywhere(method, bench.shape)
    except DesignError as error:
        return ["-", "-", "-", f"refused: {error}", ""]
    run = TrainingRun(
        bench, Candidate(design), Fidelity(bench.config.train.epochs, bench.config.seed), "trainval", None
    )
    while not run.finished:
        run.epoch()
    return [f"{bench.cost(design):,}", "1", f"{100 * run.test():.1f}", "", ""]


def found(config: RunConfig, root: Path) -> list[str]:
    """Search, retrain what was found, and label the test images with its adapter file."""
    (result,) = api.search([config])
    assert result.best is not None, "no training came to its end"
    record = StudyRecord.read(config.folder)
    best = record.best()
    assert best is not None
    spent = sum(map(record.cost, record.counted()))
    retrained = api.retrain(config)
    folder = root / "vtab-1k" / TASK
    listed, classes = read_list(folder / "test.txt"), read_adapter_info(retrained.adapter).classes
    told = api.predict(retrained.adapter, [folder / name for name in listed.names])
    right = sum(prediction.label == classes[int(label)] for prediction, label in zip(told, listed.labels, strict=True))
    test, params = 100 * retrained.outcome.test_mean, retrained.outcome.params
    what = str(candidate_of(best)).replace(" | ", "; ")  # a cell of a table
    return [f"{params:,}", f"{spent:.2f}", f"{test:.1f}", what, f"{right} of {len(told)}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the folder that has vtab-1k")
    parser.add_argument("--out", type=Path, default=Path("runs/families"))
    names = ["swin_mini_patch4_64", "convnext_mini_64", "vit_mini_patch16_64"]
    parser.add_argument("--backbones", nargs="*", default=names)
    parser.add_argument("--checkpoint", help="their weights, where they are a file")
    parser.add_argument("--size", type=int, help="of images; by default the backbone's own")
    parser.add_argument("--single", nargs="*", default=SINGLE, help="methods")
    parser.add_argument("--only-single", action="store_true", help="no search")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--budget", type=int, default=50_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    file = args.out / "families.json"
    known: dict[str, list[str]] = json.loads(file.read_text()) if file.exists() else {}
    ways = [*args.single, *([] if args.only_single else ["auto"])]
    print("| backbone | way | parameters | R | test % | what | the adapter file is right |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for backbone in args.backbones:
        config = config_of(backbone, args)
        for way in ways:
            key = f"{backbone} {way}"
            if key not in known:
                known[key] = found(config, Path(args.root)) if way == "auto" else single(Workbench(config), way)
                write_json(file, known)
            print(f"| {backbone} | {way} | {' | '.join(known[key])} |", flush=True)


if __name__ == "__main__":
    main()
