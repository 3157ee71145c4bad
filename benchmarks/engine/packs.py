"""What a training step costs in a pack of 1, 4 and 16 candidates, beside the same trainings one after the other.

    python benchmarks/engine/packs.py [--seconds S] [--amp off|bf16] [--only MODEL] [--members M] [--pack N]

Members are `alike`, LoRA of rank 8 at all blocks, or `unlike`, in turn LoRA, adapters, AdaptFormer, BitFit, SSF and
Convpass. Weights and images are made at random. Epochs of two steps, seven on a GPU, are run in turns: by
`PackTraining`, and for each member by itself. Times are of the processor (of the clock on a GPU), medians of ratios in
the same round; operations are calls of torch's dispatcher that move data, a kernel each as a rule, for a member and
step, the optimiser's included. The losses of both ways are compared, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import interleaved, work_of
from torch import Tensor

from petlas.petl import MINI, Adapters, Design, everywhere, input_config, load_backbone
from petlas.search.config import TrainConfig
from petlas.search.objectives.single_label import SingleLabel
from petlas.search.training import ImageBatches, Inputs, Learner, PackTraining

CLASSES, ROUNDS = 10, 4
STEPS = 7 if torch.cuda.is_available() else 2
"""In an epoch: 400 images are seven batches of 64; a CPU would take too long."""
ALIKE, UNLIKE = ("lora",), ("lora", "adapter", "adaptformer", "bitfit", "ssf", "convpass")


@dataclass(frozen=True)
class Case:
    """A backbone, and what is trained on it.

    Args:
        backbone: Its name.
        size: Pixels.
        batch: Images in a step of one member.
        packs: How many members are packed.
    """

    backbone: str
    size: int
    batch: int
    packs: tuple[int, ...]


CASES = (
    Case(MINI, 32, 32, (1, 4, 16)),
    Case(MINI, 64, 32, (1, 4, 16)),
    Case("vit_small_patch14_dinov2", 70, 8, (1, 4)),
)
ON_GPU = (
    Case(MINI, 32, 32, (1, 4, 16)),
    Case("vit_small_patch14_dinov2", 70, 64, (1, 4, 16)),
    Case("vit_base_patch16_224", 224, 64, (1, 4)),
)


class Steps(Learner):
    """Epochs of steps as every trial makes them."""

    def accumulate(self, images: Inputs, targets: Tensor) -> Tensor:  # type: ignore[override]  # nothing is mixed
        """The gradients of the loss."""
        return self.gradients(images, targets)


class Members:
    """The same trainings twice: on their own, and on one backbone together.

    Args:
        case: Which.
        kinds: Methods, in turn.
        count: How many.
        amp: As `train.amp`.
        graphs: As `train.cuda_graphs`.
    """

    def __init__(self, case: Case, kinds: tuple[str, ...], count: int, amp: str, graphs: str = "auto") -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        how = {"epochs": 100_000, "batch_size": case.batch, "warmup_epochs": 0, "amp": amp, "cuda_graphs": graphs}
        train = TrainConfig.model_validate(how)
        torch.manual_seed(0)
        backbone = load_backbone(case.backbone, pretrained=False, img_size=case.size).to(device)
        rng, images = np.random.default_rng(0), STEPS * case.batch
        pixels = rng.integers(256, size=(images, 3, case.size, case.size), dtype=np.uint8)
        data = ImageBatches(pixels, rng.integers(CLASSES, size=images), input_config(backbone), device, case.batch)

        def learners() -> tuple[Adapters, dict[str, Learner]]:
            host = Adapters(backbone)
            for number in range(count):
                torch.manual_seed(number)
                host.add(f"m{number}", self._design(backbone, kinds[number % len(kinds)]), CLASSES)
            return host, {name: Steps(host[name], data, SingleLabel(), train, seed) for seed, name in enumerate(host)}

        _, self.alone = learners()
        host, self.packed = learners()
        self.pack, self.count, self.device = PackTraining(host, self.packed), count, device
        depth = len(backbone.blocks)
        self.tokens = torch.empty(case.batch, 1 + (case.size // 8) ** 2, depth)

    @staticmethod
    def _design(backbone: torch.nn.Module, kind: str) -> Design:
        sized = kind not in ("bitfit", "ssf")
        return everywhere(kind, backbone, 8 if sized else None)

    def one_by_one(self) -> None:
        """An epoch of each."""
        for learner in self.alone.values():
            learner.train_epoch()

    def off(self) -> float:
        """The largest relative difference of a loss, both ways having had as many epochs."""
        pairs = [(self.alone[name].progress, self.packed[name].progress) for name in self.alone]
        assert all(first.epochs == second.epochs for first, second in pairs)
        return max(abs(first.loss - second.loss) / abs(first.loss) for first, second in pairs)

    def operations(self, action: Callable[[], object]) -> float:
        """Of a member and step."""
        found, _ = work_of(action, self.tokens, set())
        return found / self.count / STEPS


def row(case: Case, name: str, kinds: tuple[str, ...], count: int, seconds: float, amp: str) -> str:
    """Measure a pack: a line of the table."""
    members = Members(case, kinds, count, amp)
    members.one_by_one()
    members.pack.train_epoch()
    off = members.off()
    actions = {"alone": members.one_by_one, "pack": partial(members.pack.train_epoch)}
    times = interleaved(actions, "alone", members.device, seconds, ROUNDS)
    alone, packed = (members.operations(action) for action in actions.values())
    each, ratio = times["alone"].seconds / count / STEPS, 1 / times["pack"].ratio
    return (
        f"| {case.backbone} | {case.size} | {case.batch} | {name} | {count} | {each * 1000:.1f} | "
        f"{each / ratio * 1000:.1f} | {ratio:.2f} +- {times['pack'].error * ratio**2:.2f} | {alone:.0f} | "
        f"{packed:.0f} | {off:.0e} |"
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=12.0, help="of each row")
    parser.add_argument("--amp", default="off")
    parser.add_argument("--only", help="a backbone")
    parser.add_argument("--members", choices=("alike", "unlike"), help="only these")
    parser.add_argument("--pack", type=int, help="only of so many")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [
        "| backbone | px | batch | members | pack | ms alone | packed | throughput | operations alone | packed | off |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    for case in ON_GPU if torch.cuda.is_available() else CASES:
        for name, kinds in (("alike", ALIKE), ("unlike", UNLIKE)):
            if args.only not in (None, case.backbone) or args.members not in (None, name):
                continue
            for count in case.packs if args.pack is None else {args.pack}.intersection(case.packs):
                lines.append(row(case, name, kinds, count, args.seconds, args.amp))
                print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
