"""The one error that the scripts show as a sentence instead of a traceback."""


class InputError(ValueError):
    """Something the user gave cannot be used: one sentence that says what, where and what to do."""
