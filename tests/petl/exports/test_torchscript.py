from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from petlas.petl import export_adapter, load_adapter

ALONE = """
import sys, numpy, torch
sys.modules["petlas"] = sys.modules["timm"] = None
images, extra = torch.from_numpy(numpy.load("images.npy")), {"petlas.json": ""}
model = torch.jit.load("model.pt", _extra_files=extra)
numpy.save("torchscript.npy", model(images).detach().numpy())
print(extra["petlas.json"].decode())

del sys.modules["timm"]
import timm
model = timm.create_model("local-dir:out", pretrained=True).eval()
numpy.save("timm.npy", model(images).detach().numpy())
"""


def test_a_process_without_petlas_and_timm_loads_it_and_one_with_timm_what_is_timms(
    adapter: Callable[..., Path], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """In one process, as torch takes seconds to come; and they say the same."""
    images = torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "images.npy", images.numpy())
    wanted = {}
    for target, out, methods in (("torchscript", "model.pt", ("vpt",)), ("timm", "out", ("lora", "bitfit"))):
        file = adapter(*methods)
        export_adapter(file, target, tmp_path / out)
        with torch.no_grad():
            wanted[target] = load_adapter(file)(images).numpy()
    assert not [each for each in recwarn if "torch.jit" in str(each.message)]  # which a user could not heed
    run = [sys.executable, "-W", "ignore", "-c", ALONE]
    told = subprocess.run(run, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert json.loads(told)["export"]["target"] == "torchscript"
    for target, logits in wanted.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{target}.npy"), logits, atol=1e-4)
