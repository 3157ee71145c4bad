from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from petlas.petl import export_adapter, load_adapter


def test_a_process_without_petlas_and_timm_loads_it(adapter: Callable[..., Path], tmp_path: Path) -> None:
    file, out = adapter("vpt"), tmp_path / "model.pt"
    export_adapter(file, "torchscript", out)
    code = (
        "import sys, torch\nsys.modules['petlas'] = sys.modules['timm'] = None\nextra = {'petlas.json': ''}\n"
        "model = torch.jit.load('model.pt', _extra_files=extra)\n"
        "print(extra['petlas.json'].decode())\n"
        "torch.save(model(torch.full((7, 3, 32, 32), 0.5)).detach(), 'logits.pt')"
    )
    run = [sys.executable, "-W", "ignore", "-c", code]
    told = subprocess.run(run, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert json.loads(told)["export"]["target"] == "torchscript"
    with torch.no_grad():
        wanted = load_adapter(file)(torch.full((7, 3, 32, 32), 0.5))
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), wanted, atol=1e-4, rtol=0)
