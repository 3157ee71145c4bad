from petlas.datasets.errors import DataError, shown, some
from petlas.errors import UserError


def test_the_data_at_fault_is_the_users_fault() -> None:
    assert issubclass(DataError, UserError)


def test_names_are_shown_as_they_are_but_for_what_a_line_cannot_hold() -> None:
    assert shown("a [bold] %s \N{LATIN SMALL LETTER E WITH ACUTE} 'x' \\n") == "a [bold] %s \xe9 'x' \\n"
    assert shown("a\nb\r\x1b[0m") == r"a\nb\r\x1b[0m"
    shown("\udcff").encode()


def test_many_names_are_counted() -> None:
    assert some(["a"]) == "a"
    assert some(["a", "b\n", "c", "d", "e"]) == r"a, b\n, c and 2 more"
    assert some(["a", "b"], most=1) == "a and 1 more"
