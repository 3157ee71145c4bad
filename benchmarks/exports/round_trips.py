"""How far the logits of an adapter and of its exports lie apart, loaded as others load them.

    python benchmarks/exports/round_trips.py [--shared DIR] [--only NAME] > benchmarks/exports/round_trips.md

Every design has random values far from its start. Images are the training images of digits. `petlas export` itself
loads each form back; timm's and ONNX's are loaded once more in a fresh process in which petlas cannot be imported,
and predict from an array of the same images. DINOv2's weights are the real ones, where DIR (or PETLAS_SHARED) has them;
those of ViT-B/16 are random.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file

from petlas.petl import MINI, Design, apply, everywhere, export_adapter, load_adapter, load_backbone, save_adapter
from petlas.search.export import task_images

DINOV2 = "vit_small_patch14_dinov2"
VIT_B = "vit_base_patch16_224.augreg_in21k"
IMAGES = 8
CLASSES = 10

STRANGER = """
import sys
sys.modules["petlas"] = None  # whoever imports it fails
import numpy as np
form, path, images, out = sys.argv[1:]
images = np.load(images)
if form == "timm":
    import timm, torch
    with torch.inference_mode():
        logits = timm.create_model(f"local-dir:{path}", pretrained=True).eval()(torch.from_numpy(images)).numpy()
else:
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
np.save(out, logits)
"""


def backbones(folder: Path, shared: Path) -> list[tuple[str, str, Path | None, int]]:
    """What is told, the timm name, the weights and the image size of each backbone that is there."""
    found: list[tuple[str, str, Path | None, int]] = [("mini ViT", MINI, None, 64)]
    real = shared / "weights/dinov2_vits14_fp16.safetensors"
    if real.is_file():
        found.append(("DINOv2 ViT-S/14", DINOV2, real, 98))
    torch.manual_seed(0)
    random = timm.create_model(VIT_B, pretrained=False)
    save_file(random.state_dict(), folder / "vit_b.safetensors")
    return [*found, ("ViT-B/16, random weights", VIT_B, folder / "vit_b.safetensors", 224)]


def adapter(name: str, weights: Path | None, size: int, methods: tuple[str, ...], folder: Path) -> Path:
    """An adapter file of the usual designs of methods together, with values far from their start."""
    model = load_backbone(name, None if weights is None else str(weights), num_classes=CLASSES, img_size=size)
    placements = [p for method in methods for p in everywhere(method, model).placements]
    apply(model.float(), Design.of(placements))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    path = folder / f"{'-'.join(methods)}.safetensors"
    save_adapter(model, path)
    return path


def stranger(form: str, path: Path, images: np.ndarray, folder: Path) -> np.ndarray:
    """The logits of a fresh process without petlas, in a folder of its own."""
    np.save(folder / "images.npy", images)
    command = [sys.executable, "-c", STRANGER, form, str(path), str(folder / "images.npy"), str(folder / "logits.npy")]
    subprocess.run(command, check=True, cwd=folder, capture_output=True)
    logits: np.ndarray = np.load(folder / "logits.npy")
    return logits


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("PETLAS_SHARED", "../shared")))
    parser.add_argument("--only", default="", help="Backbones whose name contains this.")
    given = parser.parse_args()
    shared, only = given.shared.absolute(), given.only
    print("| backbone | design | form | largest logit | largest difference | without petlas | same labels | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for told, name, weights, size in backbones(folder, shared):
            if only not in told:
                continue
            for methods, forms in ((("lora",), ("timm", "peft", "onnx")), (("adapter", "vpt"), ("onnx",))):
                file = adapter(name, weights, size, methods, folder)
                model = load_adapter(file).float().eval()
                images = task_images("digits", None, file)[:IMAGES]
                with torch.inference_mode():
                    wanted = model(images).numpy()
                for form in forms:
                    out = folder / f"{name}-{'-'.join(methods)}-{form}"
                    began = time.perf_counter()
                    done = export_adapter(file, form, out, images, "digits")
                    seconds, alone, same = time.perf_counter() - began, "-", "-"
                    if form != "peft":  # PEFT's needs the backbone, too
                        found = stranger(form, out, images.numpy(), folder)
                        alone = f"{np.abs(found - wanted).max():.1e}"
                        same = f"{(found.argmax(1) == wanted.argmax(1)).sum()} of {len(wanted)}"
                    cells = (told, " + ".join(methods), form, f"{np.abs(wanted).max():.1f}")
                    cells = (*cells, f"{done.max_abs_difference:.1e}", alone, same, f"{seconds:.0f}")
                    print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
