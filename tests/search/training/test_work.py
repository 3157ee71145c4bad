from petlas.search.training import EpochResult


def test_results_are_equal_by_their_numbers() -> None:
    assert EpochResult(1, 0.5, 0.25, 3.0) == EpochResult(1, 0.5, 0.25, 3.0) != EpochResult(2, 0.5, 0.25, 3.0)
