"""Errors for people: what was wrong, the value seen, and what is allowed."""


class ParameterError(ValueError):
    """A parameter outside its range: the message names it, its value and what is allowed."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        """Compose the message."""
        super().__init__(f"{name} = {value!r}: {allowed}")


def check_integer(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise :class:`ParameterError` unless ``value`` is an integer in [least, most]."""
    # bool is an int to Python; YAML's `true` must not pass for 1.
    good = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not good or (most is not None and value > most):
        span = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ParameterError(name, value, f"must be an integer {span}")


def check_number(name: str, value: object, least: float, most: float = float("inf")) -> None:
    """Raise :class:`ParameterError` unless ``value`` is a number in [least, most]."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not least <= value <= most:
        span = f"at least {least}" if most == float("inf") else f"from {least} to {most}"
        raise ParameterError(name, value, f"must be a number {span}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise :class:`ParameterError` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ParameterError(name, value, f"must be one of {', '.join(choices)}")
