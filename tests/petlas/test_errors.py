from petlas.errors import UserError


def test_a_users_fault_is_a_value_error_with_its_message() -> None:
    assert isinstance(UserError("rule, value, what to do"), ValueError)
