"""What the engine costs: one command, one table, the same on a CPU and on a GPU.

    make bench                      # all of it
    make bench -- --quick           # under six minutes; other options: make bench ARGS='--amp off'
    python benchmarks/engine/bench.py --only steps_small --methods lora ssf

Random weights, noise for images, nothing from a network. Actions of one table alternate in one process, in a new order
in each round, and `ratio` is the median over the rounds of an action's time to the first row's. On a GPU times are
those of the wall; on a CPU, which others share, those of the process. `operations` are calls of torch's dispatcher that
move data, `passes` how often as much is read or written as a block hands on in the type of products; both are what is
beyond the first row's, for each block, of one forward and backward pass without the optimiser. Everything is computed
in the precision of a run (`--amp`). Rows that have become worse than in the table that is committed for the same kind
of device are named at the end.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from cases import KEY, Setting, Step, merged, noah_supernet, setting, shared, steps, with_method
from measure import Action, Times, interleaved, peak_bytes, saved_bytes, work_of
from table import GOALS, Row, markdown, read, regressions, write

from petlas.petl import METHODS, MINI, apply, input_config, remove, shape_of, tuning_of
from petlas.petl.design import Design
from petlas.search import search
from petlas.search.config import RunConfig
from petlas.search.objectives import get_objective
from petlas.search.stages.scoring import Scorer
from petlas.search.study import SEARCH, StudyRecord
from petlas.search.study.trials import complete
from petlas.search.training import ImageBatches
from petlas.search.training.numerics import pick_device

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Run:
    """How the benchmark runs.

    Args:
        device: Where is computed.
        amp: The precision, as in `train.amp`.
        quick: Less of everything.
        seconds: For each table of a full run.
        methods: Those that are timed; None for all.
    """

    device: torch.device
    amp: str
    quick: bool
    seconds: float
    methods: tuple[str, ...] | None

    def setting(self, backbone: str, size: int, cpu_batch: int) -> Setting:
        """A setting with a GPU's batch of 64 images, or fewer on a CPU."""
        batch = cpu_batch if self.device.type == "cpu" else 64
        return setting(backbone, size, batch, self.device, self.amp)

    def compare(self, actions: Mapping[str, Action], share: float = 1.0) -> dict[str, Times]:
        """Times of actions, the first being the base.

        Args:
            actions: By the row's name.
            share: Of the usual seconds.
        """
        return interleaved(actions, next(iter(actions)), self.device, self.seconds * share)


def _rows(group: str, times: Mapping[str, Times]) -> list[Row]:
    return [Row(group, name, 1000 * t.seconds, t.ratio, t.error, t.rounds) for name, t in times.items()]


def _step_rows(run: Run, where: Setting, methods: tuple[str, ...]) -> list[Row]:
    cases = dict(steps(where, tuple(m for m in methods if m in (run.methods or methods))))
    actions: dict[str, Step] = {}
    costs: dict[str, tuple[int, float, float, float | None]] = {}
    for name, step in _working(cases, lambda make: make()):
        actions[name] = step
        tokens = where.tokens(family_model(step))
        peak = peak_bytes(step, where.device)
        kept = saved_bytes(step.forward, step.storages()) / 2**20
        weights = {parameter.numel() for parameter in step.model.parameters()}
        costs[name] = (*work_of(step.passes, tokens, weights), kept, None if peak is None else peak / 2**20)
    depth, first = shape_of(family_model(actions["bare"])).depth, costs["bare"]
    rows = []
    for name, t in run.compare(actions).items():
        operations, passes, kept, peak = costs[name]
        beyond = ((operations - first[0]) / depth, (passes - first[1]) / depth)
        if name == "bare":
            beyond = (first[0] / depth, first[1] / depth)
        rows.append(Row(where.title, name, 1000 * t.seconds, t.ratio, t.error, t.rounds, *beyond, kept, peak))
    return rows


def _working(
    cases: Mapping[str, Callable[[], Step]], made: Callable[[Callable[[], Step]], Step]
) -> Iterator[tuple[str, Step]]:
    """The steps that run; of the others it is said why they are left out."""
    for name, make in cases.items():
        try:
            step = made(make)
            step()
        except Exception as error:  # one row less, and not the table
            print(f"{name} is left out: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        else:
            yield name, step


def family_model(step: Step) -> torch.nn.Module:
    """The backbone in a step's model, which `peft` wraps."""
    base = getattr(step.model, "base_model", None)
    return base.model if isinstance(base, torch.nn.Module) else step.model


def steps_small(run: Run) -> list[Row]:
    """Steps of every method on a small backbone and small images."""
    return _step_rows(run, run.setting("vit_small_patch14_dinov2", 98, 8), tuple(METHODS))


def steps_large(run: Run) -> list[Row]:
    """Steps on ViT-B/16; in a quick run on a CPU of the key methods."""
    brief = run.quick and run.device.type == "cpu"
    return _step_rows(run, run.setting("vit_base_patch16_224", 224, 2), KEY if brief else tuple(METHODS))


def graphs(run: Run) -> list[Row]:
    """Steps whose passes are CUDA graphs, beside the bare one's; none on a CPU."""
    rows: list[Row] = []
    for backbone, size in (("vit_small_patch14_dinov2", 70), ("vit_base_patch16_224", 224)):
        if run.device.type == "cpu":
            continue
        where = run.setting(backbone, size, 0)
        made = dict(steps(where, tuple(m for m in KEY if m in (run.methods or KEY))))
        made.pop("NOAH's supernet, a new design", None)  # another design has another graph
        actions: dict[str, Action] = dict(_working(made, lambda make: make().by_graphs()))
        actions["bare, kernel by kernel"] = made["bare"]()
        rows += _rows(f"CUDA graphs: {where.title}", run.compare(actions, share=0.3))
    return rows


def latency(run: Run) -> list[Row]:
    """Forward passes of merged models beside the plain backbone's."""
    where = run.setting("vit_small_patch14_dinov2", 98, 8)
    plain, (images, _) = where.load().eval(), where.inputs()
    models = {"plain backbone": plain, **{f"merged {name}": merged(plain, name) for name in ("lora", "ssf", "dora")}}
    models["plain backbone again"] = copy.deepcopy(plain)

    def forward(model: torch.nn.Module) -> Action:
        return torch.inference_mode()(lambda: model(images))

    times = run.compare({name: forward(model.eval()) for name, model in models.items()}, share=0.3)
    return _rows(f"latency: {where.title}", times)


def scoring(run: Run) -> list[Row]:
    """Scores of designs within NOAH's supernet beside the plain forward pass over the same images."""
    where = run.setting("vit_small_patch14_dinov2", 98, 8)
    model = where.load().requires_grad_(False)
    supernet, draw = noah_supernet(model)
    inputs, plain = input_config(model), shared(model).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (2 * where.batch, 3, where.size, where.size), dtype=np.uint8)
    data = ImageBatches(pixels, np.zeros(len(pixels), int), inputs, where.device)
    scorer = Scorer(supernet, data, get_objective("single_label"), cache=0)

    @torch.inference_mode()
    def forward() -> None:
        for images, _ in data:
            plain(images)

    times = run.compare({"plain forward pass": forward, "a new design": lambda: scorer.score(draw())}, share=0.3)
    return _rows(f"scoring: {where.title}", times)


def data(run: Run) -> list[Row]:
    """What a batch of data takes beside a step with it."""
    where = run.setting("vit_small_patch14_dinov2", 98, 8)
    step = dict(steps(where, ()))["bare"]()
    pixels = np.random.default_rng(0).integers(0, 256, (512, 3, where.size, where.size), dtype=np.uint8)
    batches = ImageBatches(pixels, np.zeros(len(pixels), int), input_config(family_model(step)), where.device)
    pick = torch.randperm(len(pixels))[: where.batch].to(where.device)
    times = run.compare({"bare step": step, "a batch of a store's images": lambda: batches.batch(pick)}, share=0.3)
    return _rows(f"data: {where.title}", times)


def designs(run: Run) -> list[Row]:
    """What it takes to put a design on a backbone and off again, beside a step."""
    where = run.setting("vit_small_patch14_dinov2", 98, 8)
    model = where.load().requires_grad_(False)
    step = dict(steps(where, ()))["bare"]()
    lora = tuning_of(with_method("lora", model)).design
    mixed = Design((*lora.placements, *tuning_of(with_method("vpt", model)).design.placements))

    def insert(design: Design) -> Action:
        return lambda: remove(apply(model, design))

    actions = {"bare step": step, "insert and remove lora": insert(lora), "insert and remove lora + vpt": insert(mixed)}
    return _rows(f"designs: {where.title}", run.compare(actions, share=0.2))


def trials(run: Run) -> list[Row]:
    """What a trial of one epoch costs beyond its training, in process, beside that training."""
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig.model_validate(
            {
                "name": "bench",
                "task": "digits",
                "backbone": MINI,
                "space": "noah",
                "budget": {"params": 40_000},
                "strategy": "trials",
                "search": {"baselines": False, "trials": 6 if run.quick else 16, "sampler": "random"},
                "train": {"epochs": 1, "warmup_epochs": 0, "amp": run.amp},
                "resources": {"runner": "inline", "concurrent": 1, "cache_gb": 0},
                "runs": folder,
            }
        )
        search([config])
        done = complete(StudyRecord.read(config.folder).counted(SEARCH))
    ended = sorted((trial.datetime_complete, trial.user_attrs["seconds"]) for trial in done)
    whole = [(after - before).total_seconds() for (before, _), (after, _) in itertools.pairwise(ended)]
    work, title = [seconds for _, seconds in ended[1:]], f"trials: {MINI}, digits, one epoch"
    ratio = mean(whole) / mean(work)
    rows = [("training", mean(work), 1.0), ("whole trial", mean(whole), ratio)]
    return [Row(title, name, 1000 * seconds, r, 0.0, len(work)) for name, seconds, r in rows]


SECTIONS: dict[str, Callable[[Run], list[Row]]] = {
    section.__name__: section for section in (steps_small, steps_large, graphs, latency, scoring, data, designs, trials)
}
"""The tables. To add one: write a function that gives its rows, and add it here."""


def kind_of(device: torch.device, amp: str) -> str:
    """What committed tables of the same kind of device are called: figures of others are not to be compared."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    where = setting("", 0, 0, device, amp)
    return f"{name.lower().replace(' ', '-')}-{'bf16' if where.autocast else 'fp32'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--methods", nargs="*", choices=METHODS, help="in the tables of steps")
    parser.add_argument("--seconds", type=float, help="for the rounds of one table of steps")
    parser.add_argument("--amp", choices=("auto", "bf16", "off"), default="auto")
    parser.add_argument("--device", default=str(pick_device()))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for the table; benchmarks/engine")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    seconds = args.seconds or (45 if args.quick else 300)
    run = Run(device, args.amp, args.quick, seconds, tuple(args.methods) if args.methods else None)
    kind, rows, start = kind_of(device, args.amp), [], time.monotonic()
    for name in args.only:
        found = SECTIONS[name](run)
        rows += found
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    about: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {args.threads} threads",
        "precision": "bf16" if kind.endswith("bf16") else "fp32",
        "torch": torch.__version__,
        "quick": args.quick,
    }
    goals = GOALS.get(device.type)
    print(markdown(rows, about, goals))
    worse = regressions(rows, read(HERE / f"{kind}.json"))
    print("\n".join(f"slower than committed: {line}" for line in worse) or "nothing is slower than committed")
    write(rows, about, args.out, kind, goals)


if __name__ == "__main__":
    main()
