import pytest

from petlas.petl import Design, DesignError, Placement
from petlas.petl.methods import METHODS, get_method
from petlas.search.config import OPTION_SETTINGS
from petlas.search.training.options import check_options, design_of_training
from petlas.spaces import Candidate, Space

DESIGN = Design.of(
    [Placement("lora", 0, 4), Placement("lora", 1, 2, (("dropout", 0.5),)), Placement("adaptformer", 0, 8)]
)


def test_a_scale_of_lora_is_an_alpha_of_as_many_ranks_and_other_options_stay() -> None:
    found = design_of_training(Candidate(DESIGN, (("lr", 1e-2), ("scale.lora", 3.0))))
    assert [dict(p.options) for p in found.by_method["lora"]] == [{"alpha": 12}, {"alpha": 6, "dropout": 0.5}]
    assert found.by_method["adaptformer"] == DESIGN.by_method["adaptformer"]


def test_a_setting_comes_before_what_a_placement_sets_itself() -> None:
    settings = (("dropout.lora", 0.1), ("scale.adaptformer", 0.7))
    found = design_of_training(Candidate(DESIGN, settings))
    assert [dict(p.options)["dropout"] for p in found.by_method["lora"]] == [0.1, 0.1]
    assert dict(found.by_method["adaptformer"][0].options) == {"scale": 0.7}


def test_without_such_settings_or_their_method_the_design_is_the_candidate_s() -> None:
    assert design_of_training(Candidate(DESIGN, (("lr", 1e-2),))) is DESIGN
    assert design_of_training(Candidate(DESIGN, (("scale.hydra", 3.0),))) == DESIGN


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("option", OPTION_SETTINGS)
def test_a_method_takes_a_setting_at_its_usual_value_or_says_that_it_has_none(name: str, option: str) -> None:
    method = get_method(name)
    placement = Placement(name, 0, method.default_size)
    try:
        usual = method.usual_setting(option)
    except DesignError as error:
        assert f"{name} has no {option} to set; its options: " in str(error)
        with pytest.raises(DesignError, match="has no"):
            method.at_setting(placement, option, 0.5)
        return
    plain, found = method.placed(placement).options, method.placed(method.at_setting(placement, option, usual)).options
    assert found == plain or (option == "scale" and found.alpha == placement.size)  # the rank: a scale of 1


def test_a_space_is_refused_that_sets_an_option_its_method_has_not() -> None:
    methods = {"lora": {"blocks": [0], "sizes": [0, 4]}, "ssf": {"blocks": [0]}}
    space = {"methods": methods, "settings": {"dropout.lora": {"low": 0, "high": 0.5}, "lr": [1e-3, 1e-2]}}
    least, largest = check_options(Space.from_dict(space, 1))
    assert [dict(d.by_method["lora"][0].options)["dropout"] for d in (least, largest)] == [0, 0.5]
    space["settings"] = {"dropout.ssf": [0, 0.5]}
    with pytest.raises(DesignError, match=r"space\.settings\.dropout\.ssf: ssf has no dropout to set"):
        check_options(Space.from_dict(space, 1))
    assert check_options(Space.from_dict({"methods": methods}, 1)) == []
