import pytest

from petlas.lazy import look_up, offered


def test_a_place_is_looked_up_when_it_is_asked_for() -> None:
    assert look_up("json:dumps")([1]) == "[1]"


@pytest.mark.parametrize(("place", "error"), [("no_such_module:x", ImportError), ("json:nothing", AttributeError)])
def test_a_place_that_there_is_not_is_an_error(place: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        look_up(place)


def test_a_package_offers_the_names_of_its_modules_and_no_others() -> None:
    get = offered("json", {"decoder": ("JSONDecoder",)})
    assert get("JSONDecoder").__module__ == "json.decoder"
    with pytest.raises(AttributeError, match="module 'json' has no attribute 'nothing'"):
        get("nothing")
