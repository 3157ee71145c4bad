import pytest

from petlas.petl import (
    METHODS,
    BackboneError,
    Design,
    apply,
    count_tuned,
    get_method,
    load_backbone,
    shape_by_name,
)
from petlas.search.reports.listing import list_methods


def test_every_method_is_listed_with_what_it_is() -> None:
    rows = {row["method"]: row for row in list_methods("vit_mini_patch16_64")}
    assert list(rows) == list(METHODS)
    for row in rows.values():
        assert {"method", "size", "params", "sites", "mergeable", "elastic", "paper"} <= row.keys()
        assert row["sites"]
        assert row["paper"]
        assert row["elastic"] == (row["size"] is not None)
    assert rows["lora"]["mergeable"]
    assert not rows["vpt"]["mergeable"]


@pytest.mark.parametrize(
    "name", [n for n in METHODS if not {"conv.in", "pixels"} & {*get_method(n).sites, *get_method(n).needs}]
)
def test_the_parameters_are_those_of_the_built_model(name: str) -> None:
    backbone = "vit_mini_patch16_64"
    model = load_backbone(backbone, num_classes=3, pretrained=False)
    method = get_method(name)
    apply(model, Design.of(method.baseline(shape_by_name(backbone), method.default_size), backbone))
    listed = {row["method"]: row["params"] for row in list_methods(backbone)}
    assert listed[name] == count_tuned(model)


def test_an_unknown_backbone_names_near_ones() -> None:
    with pytest.raises(BackboneError, match="did you mean"):
        list_methods("vit_bse_patch16_224")


def test_what_a_backbone_cannot_take_is_listed_with_the_reason():
    rows = {row["method"]: row for row in list_methods("convnext_atto")}
    assert rows["adapter"]["params"] and rows["adapter"]["refused"] is None
    assert rows["prefix"]["params"] is None and "a convolution in place of the attention" in rows["prefix"]["refused"]
