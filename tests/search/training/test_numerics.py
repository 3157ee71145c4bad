import os

import pytest
import torch

from petlas.search.config import TrainConfig
from petlas.search.training.numerics import autocast_dtype, deterministic, full_precision, pick_device, precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("units", "found"),
    [
        ({"avx512_f": True, "avx512_bf16": False}, None),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
    ],
)
def test_a_cpu_computes_in_full_precision_unless_it_multiplies_bf16_or_bf16_is_asked_for(
    units: dict[str, bool], found: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    assert autocast_dtype(TrainConfig(), CPU) is found
    assert autocast_dtype(TrainConfig(amp="off"), CPU) is None
    assert autocast_dtype(TrainConfig(amp="bf16"), CPU) is torch.bfloat16


def test_autocast_and_attention_are_what_they_were_afterwards() -> None:
    fused = torch.backends.cuda.flash_sdp_enabled()
    weight, x = torch.randn(4, 4), torch.randn(2, 4)
    with precision(CPU, torch.bfloat16):
        assert (x @ weight).dtype == torch.bfloat16
    with precision(CPU, None):
        assert (x @ weight).dtype == torch.float32
    assert torch.backends.cuda.flash_sdp_enabled() == fused and not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("products", ["highest", "high", "medium"])
@pytest.mark.parametrize("convolutions", [True, False])
def test_in_full_precision_nothing_is_computed_in_tf32_and_the_switches_are_what_they_were(
    products: str, convolutions: bool
) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
        with pytest.raises(KeyError), full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32
            raise KeyError
        assert torch.get_float32_matmul_precision() == products
        assert torch.backends.cudnn.allow_tf32 == convolutions
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_convolutions_have_all_digits_in_full_precision() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(4, 3, 32, 32).cuda(), torch.randn(64, 3, 8, 8).cuda()
    exact = torch.nn.functional.conv2d(x.double(), weight.double())
    with full_precision():
        ours = torch.nn.functional.conv2d(x, weight)
    assert (ours - exact).abs().max() < 1e-4


@pytest.mark.parametrize("before", [(False, False), (True, False), (True, True)])
def test_deterministic_operations_are_asked_for_in_between_only(
    before: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)

    def switches() -> tuple[bool, bool]:
        return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()

    try:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        with deterministic(False):
            assert switches() == before
        with pytest.raises(KeyError), deterministic(True):
            assert switches() == (True, False)
            raise KeyError
        assert switches() == before
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, name in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert pick_device().type == pick_device(0.25).type == name
        assert pick_device(0).type == "cpu"
