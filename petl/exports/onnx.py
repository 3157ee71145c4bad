"""ONNX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn

from petlas.petl.adapter_file import AdapterInfo
from petlas.petl.exports.base import Loaded, Target, example, merged_if_possible
from petlas.petl.exports.errors import ExportError

IMAGES, LOGITS, BATCH = "images", "logits", "batch"
"""The names of the input (B, 3, S, S), which is normalised, of the output (B, K), and of their first axis."""

_LARGEST = 2**31 - 2**24
"""Bytes of weights: what the format can hold in one file."""


class Onnx(Target):
    """One ONNX file with a dynamic batch; merged where the design can be, else with the design inside.

    Made by `torch.export`, checked in onnxruntime. Its metadata has the classes and how images are normalised.
    """

    name = "onnx"
    is_file = True
    packages = ("onnx", "onnxscript", "onnxruntime")

    def write(self, model: nn.Module, info: AdapterInfo, path: Path) -> None:
        """Follow the model's computation."""
        plain = merged_if_possible(model)
        size = sum(value.numel() * value.element_size() for value in plain.state_dict().values())
        if size > _LARGEST:
            raise ExportError(f"an ONNX file holds 2 GB at most, and the weights are {size / 1e9:.1f} GB")
        level = logging.getLogger("torch").level
        try:
            with warnings.catch_warnings(), redirect_stdout(StringIO()):
                warnings.simplefilter("ignore")
                logging.getLogger("torch").setLevel(logging.ERROR)
                torch.onnx.export(
                    plain.requires_grad_(False),
                    (example(info),),
                    path,
                    dynamo=True,
                    external_data=False,
                    input_names=[IMAGES],
                    output_names=[LOGITS],
                    dynamic_shapes=({0: torch.export.Dim(BATCH)},),
                    verbose=False,
                )
        except torch.onnx.OnnxExporterError as error:
            why = str(error.__cause__ or error).strip().partition("\n")[0]
            raise ExportError(f"torch cannot express this design in ONNX ({why}); export to torchscript") from error
        finally:
            logging.getLogger("torch").setLevel(level)

    def load(self, path: Path, backbone: Callable[[], nn.Module]) -> Loaded:
        """By onnxruntime, on the CPU."""
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

        def logits(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run([LOGITS], {IMAGES: images.numpy()})[0])

        return logits

    def note(self, path: Path, about: str) -> None:
        """In the metadata, under `petlas`."""
        import onnx

        model = onnx.load(path)
        entry = model.metadata_props.add()
        entry.key, entry.value = "petlas", about
        onnx.save(model, path)
