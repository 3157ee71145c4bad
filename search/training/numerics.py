"""Where and in which number format is computed, and whether the same is computed each time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from petlas.search.config import TrainConfig


def pick_device(gpus: float | None = None) -> torch.device:
    """A GPU if this process may use one, and is given one.

    Args:
        gpus: How many, or the share of one; None for what there is. Without any, a GPU that can be seen is others'.
    """
    return torch.device("cuda" if gpus != 0 and torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """What a device is called in records: which model of GPU it is decides how numbers are rounded."""
    return f"cuda: {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


def autocast_dtype(train: TrainConfig, device: torch.device) -> torch.dtype | None:
    """bf16 where asked for, or where the hardware computes with it; None for the model's own type.

    Args:
        train: The settings, of which `amp` decides.
        device: Where the model is.
    """
    return torch.bfloat16 if train.amp == "bf16" or (train.amp == "auto" and _computes_bf16(device)) else None


def _computes_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16 itself: most CPUs only emulate it, 20 times slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.6 lacks it
    return device.type == "cpu" and any(able.get(unit, False) for unit in ("avx512_bf16", "amx_bf16"))


@contextmanager
def precision(device: torch.device, autocast: torch.dtype | None) -> Iterator[None]:
    """Compute in `autocast` where that is safe; None for the model's own type.

    Attention on a CPU is then left to plain products: the backward pass of the fused kernel takes bf16 so slowly that
    whole steps last 1.2 times as long.

    Args:
        device: Where the model is.
        autocast: The type.
    """
    plain = sdpa_kernel(SDPBackend.MATH) if autocast is not None and device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, autocast, enabled=autocast is not None), plain:
        yield


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 as float32: by default a GPU convolves in TF32, which has 10 bits of mantissa instead of 23.

    The switches are what they were afterwards.
    """
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Let only operations run that give the same each time; what has no such form raises `RuntimeError`.

    On a CPU with as many threads the same seed gives the same numbers anyway. On a GPU it does not: sums are added up
    in whatever order their parts are done. With this they agree to the digit on the same GPU model, driver and torch
    version, and on no other; steps take longer, and a method that needs an operation without such a form fails. cuBLAS
    asks for `CUBLAS_WORKSPACE_CONFIG`, which is set here where it is not; it has an effect only if this process has
    not multiplied on the GPU before. The switch is what it was afterwards.

    Args:
        wanted: Whether it is asked for; otherwise nothing is changed.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
