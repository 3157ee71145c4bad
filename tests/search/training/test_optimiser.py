import pytest
from torch import nn

from petlas.petl import MINI, Design, Placement, apply, load_backbone
from petlas.search.config import TrainConfig
from petlas.search.training.optimiser import make_optimiser


def tuned(*placements: Placement) -> nn.Module:
    model = load_backbone(MINI, num_classes=3, img_size=32)
    return apply(model, Design.of(placements, MINI))


def decays(model: nn.Module, train: TrainConfig) -> dict[str, float]:
    of = {p: group["weight_decay"] for group in make_optimiser(model, train).param_groups for p in group["params"]}
    return {name: of[p] for name, p in model.named_parameters() if p in of}


def test_matrices_are_decayed_and_vectors_are_not() -> None:
    model = tuned(Placement("full"))
    train = TrainConfig(weight_decay=0.3, lr=0.1)
    found = decays(model, train)
    tokens = {"cls_token", "pos_embed"}
    matrices = {name for name, p in model.named_parameters() if p.ndim > 1} - tokens
    assert {"head.weight", "blocks.0.attn.qkv.weight", "patch_embed.proj.weight"} <= matrices
    assert {"head.bias", "blocks.0.norm1.weight", "blocks.5.mlp.fc2.bias", *tokens} <= found.keys() - matrices
    assert found == {name: 0.3 if name in matrices else 0.0 for name in found}
    assert {group["lr"] for group in make_optimiser(model, train).param_groups} == {0.1}


def test_only_what_is_trainable_is_held() -> None:
    model = tuned()
    assert decays(model, TrainConfig()).keys() == {"head.weight", "head.bias"}
    held = [p for group in make_optimiser(model, TrainConfig()).param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) == 2


def test_what_is_inserted_is_decayed_where_it_is_the_weight_of_a_product() -> None:
    found = decays(tuned(Placement("lora", 0, 2), Placement("adapter", 1, 4)), TrainConfig(weight_decay=0.1))
    weights = {name: decay for name, decay in found.items() if name.rpartition(".")[2] in ("down", "up", "weight")}
    assert len(weights) > 4
    assert all(decay == 0.1 for name, decay in weights.items() if "scale" not in name), weights


@pytest.mark.parametrize(
    ("method", "block", "size", "names"),
    [("vpt", 0, 3, ("tokens",)), ("lst", None, 8, ("qkv_bias", "fc1_bias")), ("vpt_shallow", None, 3, ("tokens",))],
)
def test_what_is_no_weight_of_a_product_is_not_decayed_whatever_its_shape(
    method: str, block: int | None, size: int, names: tuple[str, ...]
) -> None:
    """Prompts and the two-dimensional biases of LST have the shape of weights."""
    model = tuned(Placement(method, block, size))
    found = decays(model, TrainConfig(weight_decay=0.1))
    meant = {name for name in found if name.rpartition(".")[2] in names}
    assert any(model.get_parameter(name).ndim > 1 for name in meant)
    assert {found[name] for name in meant} == {0.0}
    assert found["head.weight"] == 0.1


def test_each_method_has_its_own_rate_and_the_rest_keeps_the_run_s() -> None:
    model = tuned(Placement("lora", 0, 2), Placement("vpt", 1, 4), Placement("bitfit"))
    train = TrainConfig(lr=0.1, weight_decay=0.3, lr_factors={"vpt": 10, "bitfit": 0.5})
    plain = decays(model, TrainConfig(lr=0.1, weight_decay=0.3))
    optimiser = make_optimiser(model, train)
    rates = {p: group["lr"] for group in optimiser.param_groups for p in group["params"]}
    found = {name: rates[p] for name, p in model.named_parameters() if p in rates}
    assert {name: rate for name, rate in found.items() if ".vpt." in name} == {"petl.vpt.blocks.1.tokens": 1.0}
    assert found["blocks.3.attn.qkv.bias"] == 0.05
    assert found["head.weight"] == found["head.bias"] == 0.1
    assert {rate for name, rate in found.items() if ".lora." in name} == {0.1}
    assert decays(model, train) == plain
