"""Pretrain the embedded mini backbones: distil a teacher, and name stroke glyphs and clip-art categories.

    python benchmarks/mini_backbone/pretrain.py --teacher dinov2_vits14_fp16.safetensors \\
        --cliparts usr/share/openclipart/png --variants 6 --epochs 20 --out first.safetensors
    python benchmarks/mini_backbone/pretrain.py --teacher dinov2_vits14_fp16.safetensors \\
        --cliparts usr/share/openclipart/png --init first.safetensors --epochs 4 --out mini.safetensors

The mini ViT distils a DINOv2 ViT-S/14. The others distil the mini ViT, whose tokens cost a twentieth:

    python benchmarks/mini_backbone/pretrain.py --backbone swin_mini_patch4_64 \\
        --cliparts usr/share/openclipart/png --images 20000 --variants 4 --minutes 20 --out swin.safetensors

First on the drawings as they are, then on wilder variants too: without those the student knows the drawings by heart.
The images are procedural (`images.py`) and public-domain clip art (`clipart.py`), drawn at 64 px. The teacher sees them
at 56 px, a 4 x 4 grid of 14 px patches; the student at 64 px with 16 px patches, the same grid, so that patch tokens
correspond one to one. Half of the images that are no glyphs are mirrored, and the teacher's patch tokens with them.
Losses: squared error to the teacher's standardised class and patch tokens; cross entropy of the glyph or clip-art
category where there is one; squared error of the colours of a 4 x 4 thumbnail told from the class token, which keeps
the layout of colours that the teacher does not care for. Of a student on maps the pooled features stand for the class
token; where its last map is of 2 x 2, the teacher's patch tokens are averaged.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from clipart import VARIANTS, draw_cliparts
from images import GLYPH_CLASSES, draw_images
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from petlas.petl import MINI, input_config, load_backbone, shape_of
from petlas.petl.mini import MINIS
from petlas.search.config import TrainConfig
from petlas.search.training.numerics import autocast_dtype, pick_device, precision

DEVICE = pick_device()

AUTOCAST = autocast_dtype(TrainConfig(), DEVICE)
"""bf16 where the hardware computes with it."""


@dataclass(frozen=True)
class Collection:
    """Images (N, H, W, 3) uint8, classes (N,) with -1 for none, and standardised teacher tokens (N, 17, D)."""

    images: Tensor
    classes: Tensor
    tokens: Tensor


def as_pixels(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (N, H, W, C) to normalised float (N, C, H, W)."""
    x = images.permute(0, 3, 1, 2).float() / 255
    return (x - x.new_tensor(mean).view(1, 3, 1, 1)) / x.new_tensor(std).view(1, 3, 1, 1)


@torch.no_grad()
def teacher_tokens(checkpoint: Path | None, images: Tensor, batch: int = 128) -> Tensor:
    """The teacher's final tokens, class first (N, 17, D), in fp16: DINOv2's, or the mini ViT's."""
    known = load_backbone("vit_small_patch14_dinov2", checkpoint, img_size=56) if checkpoint else load_backbone(MINI)
    teacher = known.to(DEVICE)
    inputs = input_config(teacher)
    tokens = torch.empty(len(images), 17, shape_of(teacher).width, dtype=torch.float16)
    for i in range(0, len(images), batch):
        x = as_pixels(images[i : i + batch].to(DEVICE), inputs.mean, inputs.std)
        x = F.interpolate(x, size=inputs.size, mode="bicubic", antialias=True)
        with precision(DEVICE, AUTOCAST):
            tokens[i : i + batch] = teacher.forward_features(x).half()
    return tokens


def standardise(tokens: Tensor) -> Tensor:
    """Class token and patch tokens to mean 0 and deviation 1 per channel, in place."""
    for part in (slice(0, 1), slice(1, 17)):
        sample = tokens[::4, part].float()
        mean, std = sample.mean((0, 1)), sample.std((0, 1))
        for i in range(0, len(tokens), 4096):
            tokens[i : i + 4096, part] = ((tokens[i : i + 4096, part].float() - mean) / std).half()
    return tokens


def mirror(x: Tensor, tokens: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The chosen ones of images (N, C, H, W) mirrored, with the columns of their patch tokens (N, 1 + 4 * 4, D)."""
    patches = tokens[:, 1:].unflatten(1, (4, 4)).flip(2).flatten(1, 2)
    flipped = torch.cat([tokens[:, :1], patches], dim=1)
    return torch.where(chosen.view(-1, 1, 1, 1), x.flip(3), x), torch.where(chosen.view(-1, 1, 1), flipped, tokens)


def augment(x: Tensor) -> Tensor:
    """Contrast, brightness and noise, drawn per image: (N, C, H, W) in [-1, 1]."""
    n = len(x)
    contrast, brightness, noise = (x.new_empty(n, 1, 1, 1) for _ in range(3))
    contrast.uniform_(0.7, 1.2)
    brightness.uniform_(-0.15, 0.15)
    return x * contrast + brightness + torch.randn_like(x) * noise.uniform_(0, 0.08)


def seen(student: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The student's class token or pooled features (N, C), and its patch tokens or last map (N, P, C)."""
    z = student.forward_features(x)
    if z.ndim == 3:
        return z[:, 0], z[:, 1:]
    pooled: Tensor = student.forward_head(z, pre_logits=True)
    return pooled, z.flatten(1, 2) if z.shape[-1] == pooled.shape[-1] else z.flatten(2).transpose(1, 2)


def pretrain(
    student: nn.Module, heads: nn.ModuleDict, data: Collection, steps: int, batch: int, lr: float, out: Path
) -> None:
    """Train the student with AdamW, warm-up over 5% of the steps, cosine to zero; `out` is written every epoch."""
    parameters = [*student.parameters(), *heads.parameters()]
    decay, plain = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr, fused=True)
    each, weights = len(data.images) // batch, torch.tensor([1.0, 0.5, 0.15, 1.0], device=DEVICE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.05)
    start = time.time()
    for first in range(0, steps, each):
        total = torch.zeros_like(weights)
        picks = torch.randperm(len(data.images))[: each * batch].view(each, batch)[: steps - first]
        for pick in picks:
            x = as_pixels(data.images[pick].to(DEVICE), (0.5,) * 3, (0.5,) * 3)
            classes, tokens = data.classes[pick].to(DEVICE), data.tokens[pick].to(DEVICE).float()
            known, is_glyph = classes >= 0, (classes >= 0) & (classes < GLYPH_CLASSES)
            x, target = mirror(x, tokens, (torch.rand(batch, device=DEVICE) < 0.5) & ~is_glyph)
            with precision(DEVICE, AUTOCAST):
                pooled, patches = (z.float() for z in seen(student, augment(x)))
            losses = torch.stack(
                [
                    F.mse_loss(heads["cls"](pooled), target[:, 0]),
                    F.mse_loss(heads["patch"](patches), averaged(target[:, 1:], patches.shape[1])),
                    F.cross_entropy(heads["class"](pooled[known]), classes[known], label_smoothing=0.1),
                    F.mse_loss(heads["colour"](pooled), F.adaptive_avg_pool2d(x, 4).flatten(1)),
                ]
            )
            optimiser.zero_grad()
            losses.dot(weights).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            total += losses.detach()
        shown = "  ".join(f"{n} {v:.3f}" for n, v in zip(heads, (total / len(picks)).tolist(), strict=True))
        print(f"step {first + len(picks)}/{steps}  {shown}  {time.time() - start:.0f} s", flush=True)
        state = {k: v.half().cpu().contiguous() for k, v in student.state_dict().items()}
        save_file(state, str(out), metadata={"format": "pt"})


def averaged(tokens: Tensor, number: int) -> Tensor:
    """Patch tokens (N, 16, D) of a grid as so many, (N, number, D)."""
    side = math.isqrt(number)
    return F.adaptive_avg_pool2d(tokens.transpose(1, 2).unflatten(2, (4, 4)), side).flatten(2).transpose(1, 2)


def seconds_of_a_step(student: nn.Module, batch: int) -> float:
    """How long a step takes here, with a fifth for what is not the student."""
    x = torch.randn(batch, 3, 64, 64, device=DEVICE)
    taken = []
    for _ in range(5):
        start = time.time()
        with precision(DEVICE, AUTOCAST):
            pooled, _ = seen(student, x)
        pooled.float().square().mean().backward()
        taken.append(time.time() - start)
    student.zero_grad()
    return 1.2 * sorted(taken)[2]


def make_heads(width: int, told: int, num_classes: int) -> nn.ModuleDict:
    """What the losses are measured on; only the student is kept."""
    outputs = {"cls": told, "patch": told, "class": num_classes, "colour": 4 * 4 * 3}
    return nn.ModuleDict({name: nn.Linear(width, size) for name, size in outputs.items()})


def load_collection(
    teacher: Path | None, cliparts: Path, variants: int, count: int, cache: Path | None
) -> tuple[Collection, int]:
    """All images with the teacher's tokens, and the number of classes; kept in `cache`, for drawing takes a while."""
    if cache and cache.exists():
        kept = load_file(str(cache))
        return Collection(kept["images"], kept["classes"], kept["tokens"]), int(kept["classes"].max()) + 1
    drawn, glyphs = draw_images(count)
    clips, categories, names = draw_cliparts(cliparts, variants)
    images = torch.cat([torch.from_numpy(drawn), torch.from_numpy(clips)])
    classes = torch.cat([torch.from_numpy(glyphs), torch.from_numpy(categories) + GLYPH_CLASSES])
    print(f"{len(drawn)} procedural images, {len(clips)} of clip art in {len(names)} categories", flush=True)
    data = Collection(images, classes, standardise(teacher_tokens(teacher, images)))
    if cache:
        save_file({"images": images, "classes": classes, "tokens": data.tokens}, str(cache))
    return data, GLYPH_CLASSES + len(names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--teacher", type=Path, help="DINOv2 ViT-S/14 weights in timm's key names; else the mini ViT teaches"
    )
    parser.add_argument("--backbone", default=MINI, choices=MINIS, help="who is taught")
    parser.add_argument("--cliparts", type=Path, required=True, help="the folder png of Debian's openclipart-png")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="weights of an earlier training to start from")
    parser.add_argument("--images", type=int, default=30_000, help="procedural images")
    parser.add_argument("--variants", type=int, default=VARIANTS, help="of each drawing")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--minutes", type=float, help="as many steps as take so long, in place of --epochs")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--cache", type=Path, help="where the images and the teacher's tokens are kept between runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    data, num_classes = load_collection(args.teacher, args.cliparts, args.variants, args.images, args.cache)
    student = load_backbone(args.backbone, args.init, pretrained=False).train().to(DEVICE)
    heads = make_heads(shape_of(student).width, data.tokens.shape[-1], num_classes).to(DEVICE)
    steps = args.epochs * (len(data.images) // args.batch)
    if args.minutes is not None:
        steps = max(20, int(60 * args.minutes / seconds_of_a_step(student, args.batch)))
    pretrain(student, heads, data, steps, args.batch, args.lr, args.out)


if __name__ == "__main__":
    main()
