"""Pretrain the embedded mini backbone: distil a DINOv2 ViT-S/14 on procedural images, and name stroke glyphs.

    python benchmarks/mini_backbone/pretrain.py --teacher dinov2_vits14_fp16.safetensors --out mini.safetensors

The student sees each image at 32 px (a 4 x 4 grid of 8 px patches), the teacher at 56 px (4 x 4 of 14 px), so that
their patch tokens correspond one to one. Loss: squared error to the teacher's standardised class and patch tokens,
plus the cross entropy of the glyph classes, plus the squared error of the colours of a 4 x 4 thumbnail told from the
class token, which keeps the layout of colours that the teacher does not care for.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from images import GLYPH_CLASSES, draw_images
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

STUDENT = {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 4, "num_classes": 0}


def as_pixels(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (N, H, W, C) to normalised float (N, C, H, W)."""
    x = images.permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


@torch.no_grad()
def teacher_tokens(checkpoint: Path, images: Tensor, batch: int = 128) -> Tensor:
    """The teacher's final tokens, class first (N, 17, 384), standardised per channel, in fp16."""
    overlay = {"file": str(checkpoint), "num_classes": 0}
    name = "vit_small_patch14_dinov2"
    teacher = timm.create_model(name, img_size=56, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    tokens = torch.empty(len(images), 17, teacher.embed_dim, dtype=torch.float16)
    for i in range(0, len(images), batch):
        x = as_pixels(images[i : i + batch], teacher.default_cfg["mean"], teacher.default_cfg["std"])
        x = F.interpolate(x, size=56, mode="bicubic", antialias=True)
        tokens[i : i + batch] = teacher.forward_features(x).half()
    for part in (slice(0, 1), slice(1, 17)):
        sample = tokens[:8192, part].float()
        mean, std = sample.mean((0, 1)), sample.std((0, 1))
        for i in range(0, len(tokens), 4096):
            tokens[i : i + 4096, part] = ((tokens[i : i + 4096, part].float() - mean) / std).half()
    return tokens


def augment(x: Tensor) -> Tensor:
    """Contrast, brightness and noise, drawn per image: (N, C, H, W) in [-1, 1]."""
    n = len(x)
    contrast = torch.empty(n, 1, 1, 1).uniform_(0.7, 1.2)
    brightness = torch.empty(n, 1, 1, 1).uniform_(-0.15, 0.15)
    return x * contrast + brightness + torch.randn_like(x) * torch.empty(n, 1, 1, 1).uniform_(0, 0.08)


def pretrain(images: Tensor, glyphs: Tensor, tokens: Tensor, epochs: int, batch: int, lr: float) -> VisionTransformer:
    """Train the student with AdamW, a warm-up over 5% of the steps and a cosine to zero; the last epoch counts."""
    student = VisionTransformer(**STUDENT)
    width = student.embed_dim
    heads = nn.ModuleDict(
        {
            "cls": nn.Linear(width, 384),
            "patch": nn.Linear(width, 384),
            "glyph": nn.Linear(width, GLYPH_CLASSES),
            "colour": nn.Linear(width, 4 * 4 * 3),
        }
    )
    parameters = [*student.parameters(), *heads.parameters()]
    decay, plain = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    optimiser = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], lr)
    steps = len(images) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=epochs * steps, pct_start=0.05)
    start = time.time()
    for epoch in range(epochs):
        total = torch.zeros(4)
        for pick in torch.randperm(len(images))[: steps * batch].view(steps, batch):
            x = as_pixels(images[pick], (0.5,) * 3, (0.5,) * 3)
            z = student.forward_features(augment(x))
            target, label, thumbnail = tokens[pick].float(), glyphs[pick], F.adaptive_avg_pool2d(x, 4).flatten(1)
            loss_cls = F.mse_loss(heads["cls"](z[:, 0]), target[:, 0])
            loss_patch = F.mse_loss(heads["patch"](z[:, 1:]), target[:, 1:])
            known = label >= 0
            loss_glyph = F.cross_entropy(heads["glyph"](z[known, 0]), label[known], label_smoothing=0.1)
            loss_colour = F.mse_loss(heads["colour"](z[:, 0]), thumbnail)
            optimiser.zero_grad()
            (loss_cls + 0.5 * loss_patch + 0.1 * loss_glyph + loss_colour).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            total += torch.stack([loss_cls, loss_patch, loss_glyph, loss_colour]).detach()
        means = zip(("cls", "patch", "glyph", "colour"), (total / steps).tolist(), strict=True)
        shown = "  ".join(f"{name} {value:.3f}" for name, value in means)
        print(f"epoch {epoch + 1}/{epochs}  {shown}  {time.time() - start:.0f} s", flush=True)
    return student


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="DINOv2 ViT-S/14 weights in timm's key names")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    drawn, labels = draw_images(args.images)
    images, glyphs = torch.from_numpy(drawn), torch.from_numpy(labels)
    print(f"drew {len(images)} images, {int((glyphs >= 0).sum())} of them glyphs", flush=True)
    tokens = teacher_tokens(args.teacher, images)
    print("teacher done", flush=True)
    small = F.interpolate(images.permute(0, 3, 1, 2).float(), size=32, mode="area").round().to(torch.uint8)
    student = pretrain(small.permute(0, 2, 3, 1), glyphs, tokens, args.epochs, args.batch, args.lr)
    state = {k: v.half().contiguous() for k, v in student.state_dict().items()}
    save_file(state, str(args.out), metadata={"format": "pt"})
    print(f"wrote {args.out}: {sum(v.numel() for v in state.values()):,} numbers", flush=True)


if __name__ == "__main__":
    main()
