"""Small backbones, the ways to shake them, and a vision transformer written out by hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from petlas.petl import Design, apply, family_of, get_method, shape_of
from petlas.petl.copies import copied

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"model_name": "vit_tiny_patch16_224", "img_size": 32, "depth": 3},
    "dinov2": {
        "model_name": "vit_small_patch14_reg4_dinov2",
        "img_size": 28,
        "depth": 3,
        "embed_dim": 96,
        "num_heads": 3,
    },
    "gap": {
        "model_name": "vit_tiny_patch16_224",
        "img_size": 48,
        "depth": 3,
        "class_token": False,
        "global_pool": "avg",
    },
}
CLASSES = 5


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def _shake(parameters: Any, scale: float, seed: int = 1) -> None:
    """Add noise, so that no bias is 0, no norm is 1 and no zero start hides a fault."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in parameters:
            p.add_(torch.randn(p.shape, generator=noise).to(p) * scale)


def _create(**arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(**({"num_classes": CLASSES} | arguments))
    for path, p in model.named_parameters():
        if path.endswith("gamma"):
            nn.init.constant_(p, 0.7)
    _shake(model.parameters(), 0.05)
    return model.eval()


@pytest.fixture(scope="session")
def _originals() -> dict[str, nn.Module]:
    return {}


@pytest.fixture
def make(_originals: dict[str, nn.Module]) -> Callable[..., nn.Module]:
    """A fresh copy of a small random backbone of a kind, in evaluation mode."""

    def make_backbone(kind: str = "plain", **arguments: Any) -> nn.Module:
        name = f"{kind} {sorted(arguments.items())}"
        if name not in _originals:
            _originals[name] = _create(**KINDS[kind] | arguments)
        return copied(_originals[name])

    return make_backbone


@pytest.fixture
def images() -> Callable[..., Tensor]:
    """Random images of a model's size and dtype."""

    def random_images(model: nn.Module, number: int = 2, seed: int = 0) -> Tensor:
        height, width = family_of(model).image_size(model)
        pixels = torch.randn(number, 3, height, width, generator=torch.Generator().manual_seed(seed))
        return pixels.to(next(model.parameters()).dtype)

    return random_images


@pytest.fixture
def usual() -> Callable[..., Design]:
    """A method's usual design on a model, with sizes of 4 where it has one."""

    def usual_design(name: str, model: nn.Module, size: int = 4) -> Design:
        method = get_method(name)
        return Design.of(method.baseline(shape_of(model), size if method.size_means else None))

    return usual_design


@pytest.fixture
def shake() -> Callable[[nn.Module], None]:
    """Add noise to everything that is trained."""

    def shake_tuned(model: nn.Module, scale: float = 0.1) -> None:
        _shake([p for p in model.parameters() if p.requires_grad], scale, seed=2)

    return shake_tuned


@pytest.fixture
def tuned(make: Any, usual: Any, shake: Any) -> Callable[..., nn.Module]:
    """A backbone with a method's usual design, or the given one, whose trained values are far from their start."""

    def tuned_model(design: str | Design, kind: str = "plain", double: bool = False, **arguments: Any) -> nn.Module:
        model = make(kind, **arguments)
        if double:
            model = model.double()
        apply(model, usual(design, model) if isinstance(design, str) else design)
        shake(model)
        return model

    return tuned_model


@pytest.fixture
def train(images: Any) -> Callable[..., None]:
    """A few steps of AdamW over all parameters of the model, frozen ones included, with weight decay."""

    def train_steps(model: nn.Module, steps: int = 2) -> None:
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)
        pixels = images(model)
        model.train()
        for _ in range(steps):
            optimiser.zero_grad()
            model(pixels).square().mean().backward()
            optimiser.step()
        model.eval()

    return train_steps


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real weights."""
    return Path(os.environ.get("PETLAS_SHARED", Path(__file__).parents[3] / "shared"))


@pytest.fixture
def dinov2_file(shared: Path) -> Path:
    path = shared / "weights" / "dinov2_vits14_fp16.safetensors"
    if not path.is_file():
        pytest.skip(f"needs the real weights at {path}; set PETLAS_SHARED")
    return path


class ByHand:
    """A timm vision transformer as plain formulas on the same parameters: no modules, no hooks.

    The methods below `forward` do nothing here; tests override the one that their PETL method changes.
    """

    def __init__(self, model: nn.Module) -> None:
        self.w = dict(model.named_parameters())
        self.model = model
        self.heads = model.blocks[0].attn.num_heads
        self.eps = model.blocks[0].norm1.eps
        self.depth = len(model.blocks)

    def norm(self, path: str, x: Tensor) -> Tensor:
        if f"{path}.weight" not in self.w:
            return x
        centred = x - x.mean(-1, keepdim=True)
        z = centred / (centred.square().mean(-1, keepdim=True) + self.eps).sqrt()
        return self.after(path, z * self.w[f"{path}.weight"] + self.w[f"{path}.bias"], x)

    def linear(self, path: str, x: Tensor) -> Tensor:
        return self.after(path, x @ self.w[f"{path}.weight"].T + self.w[f"{path}.bias"], x)

    def attention(self, path: str, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        parts = self.linear(f"{path}.qkv", x).split(width, dim=-1)
        q, k, v = (t.view(n, tokens, self.heads, -1).transpose(1, 2) for t in parts)
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
        return self.linear(f"{path}.proj", (weights @ v).transpose(1, 2).reshape(n, tokens, width))

    def block(self, i: int, x: Tensor) -> Tensor:
        path = f"blocks.{i}"
        attended = self.attention(f"{path}.attn", self.norm(f"{path}.norm1", x)) * self.w.get(f"{path}.ls1.gamma", 1)
        x = self.between(i, x + self.attn_branch(i, attended))
        hidden = self.linear(f"{path}.mlp.fc1", self.norm(f"{path}.norm2", x))
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        branch = self.linear(f"{path}.mlp.fc2", hidden) * self.w.get(f"{path}.ls2.gamma", 1)
        return self.behind(i, x + self.branch(i, branch) + self.beside(i, x))

    def embed(self, images: Tensor) -> Tensor:
        kernel = self.w["patch_embed.proj.weight"]
        patches = nn.functional.unfold(images, kernel.shape[-2:], stride=kernel.shape[-2:]).transpose(1, 2)
        x = self.after("patch_embed.proj", patches @ kernel.flatten(1).T + self.w["patch_embed.proj.bias"], patches)
        prefix = [self.w[t].expand(len(x), -1, -1) for t in ("cls_token", "reg_token") if t in self.w]
        if self.model.no_embed_class:
            return torch.cat([*prefix, x + self.w["pos_embed"]], dim=1)
        return torch.cat([*prefix, x], dim=1) + self.w["pos_embed"]

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images)
        for i in range(self.depth):
            x = self.block(i, self.before(i, x))
        x = self.norm("norm", self.leave(x))
        x = x[:, self.model.num_prefix_tokens :].mean(1) if self.model.global_pool == "avg" else x[:, 0]
        return self.norm("fc_norm", x) @ self.w["head.weight"].T + self.w["head.bias"]

    def after(self, path: str, z: Tensor, x: Tensor) -> Tensor:
        """Behind a layer with input x and output z."""
        return z

    def attn_branch(self, i: int, o: Tensor) -> Tensor:
        """At the end of the attention branch."""
        return o

    def between(self, i: int, x: Tensor) -> Tensor:
        """On the stream between attention and MLP."""
        return x

    def behind(self, i: int, x: Tensor) -> Tensor:
        """On the stream behind a block."""
        return x

    def branch(self, i: int, m: Tensor) -> Tensor:
        """At the end of the MLP branch."""
        return m

    def beside(self, i: int, x: Tensor) -> Tensor | float:
        """Parallel to the MLP, from the stream in front of norm2."""
        return 0.0

    def before(self, i: int, x: Tensor) -> Tensor:
        """In front of a block."""
        return x

    def leave(self, x: Tensor) -> Tensor:
        """Behind the last block."""
        return x


@pytest.fixture
def by_hand() -> type[ByHand]:
    return ByHand


@pytest.fixture
def same_as_by_hand(images: Any) -> Callable[[nn.Module, ByHand], None]:
    """The model and the formulas give the same logits, and the same gradient of every trained tensor."""

    def compare(model: nn.Module, formulas: ByHand) -> None:
        pixels = images(model, 3)
        trained = {path: p for path, p in model.named_parameters() if p.requires_grad}
        weights = torch.randn(3, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        ours, theirs = model(pixels), formulas.forward(pixels)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        grads = [torch.autograd.grad((out * weights).sum(), list(trained.values())) for out in (ours, theirs)]
        for path, mine, other in zip(trained, *grads, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-9, msg=f"gradient of {path}")

    return compare
