from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from petlas.petl import ExportError, Placement, export_adapter, load_adapter

onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")
pytest.importorskip("onnxscript", reason="the extra export is not installed")


def test_one_file_with_a_dynamic_batch_that_says_what_it_is(
    adapter: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a hook behind layers, and of further tokens."""
    file, out = adapter("adapter", "vpt"), tmp_path / "deep" / "model.onnx"
    export_adapter(file, "onnx", out)
    assert list(out.parent.iterdir()) == [out]
    session = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, 32, 32]
    for count in (1, 5):
        images = np.random.default_rng(0).normal(size=(count, 3, 32, 32)).astype(np.float32)
        with torch.no_grad():
            wanted = load_adapter(file)(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(session.run(["logits"], {"images": images})[0], wanted, atol=1e-4)
    kept = json.loads(session.get_modelmeta().custom_metadata_map["petlas"])
    assert kept["classes"][1] == "b<ee"
    assert kept["export"]["max_abs_difference"] <= 1e-4
    onnx.checker.check_model(onnx.load(out))
    assert capfd.readouterr().out == ""


def test_what_torch_cannot_follow_is_refused_with_the_reason(adapter: Callable[..., Path], tmp_path: Path) -> None:
    file = adapter(Placement("sparse", 0, 5), Placement("adapter", 1, 2))
    with pytest.raises(ExportError, match=r"torch cannot express this design in ONNX \(.+\); export to torchscript"):
        export_adapter(file, "onnx", tmp_path / "model.onnx")
    assert not list(tmp_path.glob("*.onnx"))


def test_weights_that_are_too_large_for_one_file_are_refused(
    adapter: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petlas.petl.exports.onnx._LARGEST", 1000)
    with pytest.raises(ExportError, match="2 GB at most"):
        export_adapter(adapter("linear"), "onnx", tmp_path / "model.onnx")
