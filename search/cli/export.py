"""`petlas export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from petlas.search.cli.arguments import Adapter, Checkpoint, Format, FormatOption, adapter_file
from petlas.search.cli.output import print_json


def export(
    adapter: Adapter,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="What is written: a new folder or file.")],
    to: Annotated[str, typer.Option("--to", metavar="timm|peft|onnx|torchscript", help="For whom.")],
    task: Annotated[str | None, typer.Option(help="Compare on training images of this task, not on noise.")] = None,
    root: Annotated[Path | None, typer.Option(help="Where data lies; by default $PETLAS_DATA.")] = None,
    checkpoint: Checkpoint = None,
    push: Annotated[
        str | None, typer.Option(metavar="REPO", help="Upload it to the Hugging Face Hub, too; token in $HF_TOKEN.")
    ] = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Write an adapter in a form that others load, and prove that it computes the same.

    timm: a folder of merged weights, for timm.create_model("local-dir:OUT", pretrained=True). peft: a folder for
    PeftModel.from_pretrained. onnx, torchscript: one file, merged where it can be. What is written is loaded back, and
    the largest difference of logits is printed and kept with it; above 1e-4 nothing is written.

    Example: petlas export runs/demo/best/adapter.safetensors --to onnx demo.onnx --task digits
    """
    from petlas.search import api

    done = api.export(adapter_file(adapter), to, out, task=task, root=root, checkpoint=checkpoint, push=push)
    if format is Format.JSON:
        print_json(asdict(done))
        return
    from petlas.search.reports.tables import show
    from petlas.search.reports.text import shown

    show(
        f"wrote {shown(done.path)}: logits differ by at most {done.max_abs_difference:.1e} on {done.images} images "
        f"({shown(done.source)})"
    )
