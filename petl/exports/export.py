"""Hand an adapter file over in another form, with proof that it computes the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from petlas import __version__
from petlas.files import making
from petlas.petl.adapter_file import AdapterInfo, load_adapter, plain_backbone, read_adapter_info
from petlas.petl.exports import get_target
from petlas.petl.exports.base import Loaded
from petlas.petl.exports.errors import ExportError, InexactError

TOLERANCE = 1e-4
"""The largest difference of two logits that counts as the same computation, in float32."""

NOISE = 8
"""Images of noise that are compared where no others are given."""


@dataclass(frozen=True)
class Exported:
    """An export that was checked.

    Args:
        path: Its file or folder.
        target: Its form.
        max_abs_difference: Of logits, between the adapter and what was exported, loaded as others load it.
        images: How many were compared.
        source: What they were.
    """

    path: Path
    target: str
    max_abs_difference: float
    images: int
    source: str


def export_adapter(
    adapter: str | Path,
    target: str,
    out: str | Path,
    images: Tensor | None = None,
    source: str = "noise",
    checkpoint: str | None = None,
) -> Exported:
    """Write an adapter in another form, load it back as others do, and compare the logits.

    Args:
        adapter: The adapter file.
        target: One of `EXPORTS`.
        out: The file or folder; nothing may be there.
        images: Normalised images (B, 3, S, S) to compare on; seeded noise where there are none.
        source: What they are, for the record.
        checkpoint: The backbone's weights, where the adapter file does not know them or they were moved.

    Raises:
        AdapterError: When the adapter file or its backbone is at fault.
        ExportError: When the design has no such form, a package is missing, or something is at `out`.
        InexactError: When a difference is above `TOLERANCE`; nothing is left at `out`.
    """
    form, path, info = get_target(target), Path(out), read_adapter_info(adapter)
    if path.exists():
        raise ExportError(f"an export writes what is new, and {path} exists; remove it, or choose another name")
    with _place(path, folder=not form.is_file) as temporary:
        where = checkpoint or info.checkpoint
        info = AdapterInfo(**{**vars(info), "checkpoint": where})
        model = load_adapter(adapter, checkpoint=checkpoint).float().eval()
        shown = noise(info) if images is None else images
        with torch.inference_mode():
            wanted = model(shown)
        form.write(model, info, temporary)
        loaded = form.load(temporary, lambda: plain_backbone(info, where).float())
        difference = largest_difference(loaded, shown, wanted)
        if not difference <= TOLERANCE:
            raise InexactError(
                f"the logits of {len(shown)} images ({source}) differ by up to {difference:.2g} between {adapter} and "
                f"its export to {target}, and {TOLERANCE:g} is allowed; nothing was written"
            )
        done = Exported(path, target, difference, len(shown), source)
        form.note(temporary, json.dumps(about(info, done), indent=2))
    return done


@contextmanager
def _place(path: Path, folder: bool) -> Iterator[Path]:
    """Where to write; that this cannot be done there is found before what takes long.

    Raises:
        ExportError: When it cannot.
    """
    with ExitStack() as stack:
        try:
            temporary = stack.enter_context(making(path, folder))
        except OSError as error:
            raise ExportError(f"an export cannot be written to {path} ({error}); choose another place") from error
        yield temporary


def noise(info: AdapterInfo, count: int = NOISE) -> Tensor:
    """Seeded noise in the range of images, normalised as the backbone expects, (B, 3, S, S).

    Args:
        info: Of the adapter.
        count: How many images.
    """
    generator, size = torch.Generator().manual_seed(0), info.input.size
    pixels = torch.rand(count, 3, size, size, generator=generator)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (info.input.mean, info.input.std))
    return (pixels - mean) / std


def largest_difference(loaded: Loaded, images: Tensor, wanted: Tensor) -> float:
    """Of any two logits, with all images at once, and with one alone; NaN where one is not finite.

    Args:
        loaded: What was exported.
        images: (B, 3, S, S).
        wanted: The adapter's logits (B, K).
    """
    with torch.inference_mode():
        parts = [(loaded(images), wanted), (loaded(images[:1]), wanted[:1])]
    return max((found - expected).abs().max().item() for found, expected in parts)


def about(info: AdapterInfo, done: Exported) -> dict[str, object]:
    """What is kept with an export: what it is of, how images are prepared, and how it was checked.

    Args:
        info: The adapter's header.
        done: What was exported.
    """
    kept = ("backbone", "weights", "classes", "kind", "score", "metric")
    return {
        "petlas": __version__,
        **{key: getattr(info, key) for key in kept},
        "design": info.design.to_dict(),
        "input": asdict(info.input),
        "export": asdict(done) | {"path": done.path.name},
    }
