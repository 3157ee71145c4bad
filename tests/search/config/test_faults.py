from petlas.errors import UserError
from petlas.search.config import ConfigError, Fault
from petlas.search.config.faults import nearest


def test_a_fault_is_one_line_with_path_value_and_rule() -> None:
    assert str(Fault("train.epochs", 0, "should be greater than 0")) == "train.epochs = 0: should be greater than 0"
    assert "\n" not in str(Fault("name", "a\nb", "must be a plain folder name"))


def test_an_error_lists_every_fault_with_its_source_and_is_the_users() -> None:
    error = ConfigError("run.yaml", [Fault("a", 1, "x"), Fault("b", 2, "y")])
    assert str(error) == "run.yaml: a = 1: x\nrun.yaml: b = 2: y"
    assert [fault.path for fault in error.faults] == ["a", "b"]
    assert isinstance(error, UserError)


def test_the_nearest_name_is_offered_or_else_all() -> None:
    assert nearest("epoch", ["epochs", "lr"]) == "did you mean epochs?"
    assert nearest("zzz", ["epochs", "lr"]) == "known: epochs, lr"
    assert nearest("zzz", ["a"], "shipped") == "shipped: a"
