"""The error that every room's own errors derive from."""


class UserError(ValueError):
    """The user's input is at fault: the message names the rule, the value and what to do; exit status 2."""
