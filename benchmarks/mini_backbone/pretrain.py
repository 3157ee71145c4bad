"""Pretrain the embedded mini backbone: distil a DINOv2 ViT-S/14, and name stroke glyphs and clip-art categories.

    python benchmarks/mini_backbone/pretrain.py --teacher dinov2_vits14_fp16.safetensors \\
        --cliparts usr/share/openclipart/png --out mini.safetensors

The images are procedural (`images.py`) and public-domain clip art (`clipart.py`), drawn at 64 px. The teacher sees them
at 56 px, a 4 x 4 grid of 14 px patches; the student at 32 px with 8 px patches, the same grid, so that patch tokens
correspond one to one. At the end its patch embedding is inflated to 64 px images and 16 px patches.
Losses: squared error to the teacher's standardised class and patch tokens; cross entropy of the glyph or clip-art
category where there is one; squared error of the colours of a 4 x 4 thumbnail told from the class token, which keeps
the layout of colours that the teacher does not care for.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from clipart import draw_cliparts
from images import GLYPH_CLASSES, draw_images
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

STUDENT = {"embed_dim": 128, "depth": 6, "num_heads": 4, "num_classes": 0}


@dataclass(frozen=True)
class Collection:
    """Images (N, H, W, 3) uint8, classes (N,) with -1 for none, and standardised teacher tokens (N, 17, 384)."""

    images: Tensor
    classes: Tensor
    tokens: Tensor


def as_pixels(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (N, H, W, C) to normalised float (N, C, H, W)."""
    x = images.permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


@torch.no_grad()
def teacher_tokens(checkpoint: Path, images: Tensor, batch: int = 128) -> Tensor:
    """The teacher's final tokens, class first (N, 17, 384), in fp16."""
    overlay = {"file": str(checkpoint), "num_classes": 0}
    name = "vit_small_patch14_dinov2"
    teacher = timm.create_model(name, img_size=56, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    tokens = torch.empty(len(images), 17, teacher.embed_dim, dtype=torch.float16)
    for i in range(0, len(images), batch):
        x = as_pixels(images[i : i + batch], teacher.default_cfg["mean"], teacher.default_cfg["std"])
        x = F.interpolate(x, size=56, mode="bicubic", antialias=True)
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


def inflated(student: VisionTransformer) -> VisionTransformer:
    """A student for images of twice the size that computes on them what `student` computes on their halves."""
    larger = VisionTransformer(img_size=64, patch_size=16, **STUDENT)
    state = student.state_dict()
    kernel = state["patch_embed.proj.weight"]
    larger.load_state_dict(state | {"patch_embed.proj.weight": F.interpolate(kernel, scale_factor=2) / 4})
    return larger


def halve(images: Tensor) -> Tensor:
    """uint8 images (N, 64, 64, 3) at half their size."""
    x = images.permute(0, 3, 1, 2).float()
    return F.avg_pool2d(x, 2).round().to(torch.uint8).permute(0, 2, 3, 1)


def augment(x: Tensor) -> Tensor:
    """Contrast, brightness and noise, drawn per image: (N, C, H, W) in [-1, 1]."""
    n = len(x)
    contrast = torch.empty(n, 1, 1, 1).uniform_(0.7, 1.2)
    brightness = torch.empty(n, 1, 1, 1).uniform_(-0.15, 0.15)
    return x * contrast + brightness + torch.randn_like(x) * torch.empty(n, 1, 1, 1).uniform_(0, 0.08)


def pretrain(
    student: VisionTransformer, heads: nn.ModuleDict, data: Collection, epochs: int, batch: int, lr: float
) -> None:
    """Train the student with AdamW, a warm-up over 5% of the steps and a cosine to zero; the last epoch counts."""
    parameters = [*student.parameters(), *heads.parameters()]
    decay, plain = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr)
    steps, weights = len(data.images) // batch, torch.tensor([1.0, 0.5, 0.15, 1.0])
    total_steps = epochs * steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=total_steps, pct_start=0.05)
    start = time.time()
    for epoch in range(epochs):
        total = torch.zeros(len(weights))
        for pick in torch.randperm(len(data.images))[: steps * batch].view(steps, batch):
            x = as_pixels(data.images[pick], (0.5,) * 3, (0.5,) * 3)
            target, classes = data.tokens[pick].float(), data.classes[pick]
            z, known = student.forward_features(augment(x)), classes >= 0
            losses = torch.stack(
                [
                    F.mse_loss(heads["cls"](z[:, 0]), target[:, 0]),
                    F.mse_loss(heads["patch"](z[:, 1:]), target[:, 1:]),
                    F.cross_entropy(heads["class"](z[known, 0]), classes[known], label_smoothing=0.1),
                    F.mse_loss(heads["colour"](z[:, 0]), F.adaptive_avg_pool2d(x, 4).flatten(1)),
                ]
            )
            optimiser.zero_grad()
            losses.dot(weights).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            total += losses.detach()
        shown = "  ".join(f"{n} {v:.3f}" for n, v in zip(heads, (total / steps).tolist(), strict=True))
        print(f"epoch {epoch + 1}/{epochs}  {shown}  {time.time() - start:.0f} s", flush=True)


def make_heads(width: int, num_classes: int) -> nn.ModuleDict:
    """What the losses are measured on; only the student is kept."""
    outputs = {"cls": 384, "patch": 384, "class": num_classes, "colour": 4 * 4 * 3}
    return nn.ModuleDict({name: nn.Linear(width, size) for name, size in outputs.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="DINOv2 ViT-S/14 weights in timm's key names")
    parser.add_argument("--cliparts", type=Path, required=True, help="the folder png of Debian's openclipart-png")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=24_000, help="procedural images")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    drawn, glyphs = draw_images(args.images)
    cliparts, categories, names = draw_cliparts(args.cliparts)
    images = torch.cat([torch.from_numpy(drawn), torch.from_numpy(cliparts)])
    classes = torch.cat([torch.from_numpy(glyphs), torch.from_numpy(categories) + GLYPH_CLASSES])
    print(f"{len(drawn)} procedural images, {len(cliparts)} of clip art in {len(names)} categories", flush=True)
    tokens = standardise(teacher_tokens(args.teacher, images))
    print("teacher done", flush=True)
    student = VisionTransformer(img_size=32, patch_size=8, **STUDENT)
    heads = make_heads(student.embed_dim, GLYPH_CLASSES + len(names))
    pretrain(student, heads, Collection(halve(images), classes, tokens), args.epochs, args.batch, args.lr)
    student = inflated(student)
    state = {k: v.half().contiguous() for k, v in student.state_dict().items()}
    save_file(state, str(args.out), metadata={"format": "pt"})
    print(f"wrote {args.out}: {sum(v.numel() for v in state.values()):,} numbers", flush=True)


if __name__ == "__main__":
    main()
