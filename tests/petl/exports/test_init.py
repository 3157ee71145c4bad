import pytest

from petlas.petl.exports import EXPORTS, ExportError, get_target


def test_an_unknown_target_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ExportError, match=f"one of {', '.join(EXPORTS)}, got 'keras'"):
        get_target("keras")


def test_a_target_is_called_what_its_line_says() -> None:
    assert get_target("timm").name == "timm"
