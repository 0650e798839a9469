"""Errors for people: what was wrong, the value seen, and what is allowed."""

import math
from typing import Any


class ParameterError(ValueError):
    """A parameter outside its range: the message names it, its value and what is allowed."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        """Compose the message."""
        super().__init__(f"{name} = {value!r}: {allowed}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive the way from a worker to its caller: pickling calls with the message alone."""
        return _with_message, (type(self), *self.args)


class LogitsError(ValueError):
    """Logits that are no finite numbers: a model or options from which nothing can be drawn."""


def _with_message(kind: type[ParameterError], message: str) -> ParameterError:
    """An error that says ``message``, whatever its own arguments were."""
    error = kind.__new__(kind, message)
    error.args = (message,)
    return error


def check_integer(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raise :class:`ParameterError` unless ``value`` is an integer in [least, most]."""
    # bool is an int to Python; YAML's `true` must not pass for 1.
    good = (
        isinstance(value, int)
        and not isinstance(value, bool)
        and least <= value
        and (most is None or value <= most)
    )
    if not good:
        span = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ParameterError(name, value, f"must be an integer {span}")


def check_number(
    name: str, value: object, least: float, most: float, or_zero: bool = False
) -> None:
    """Raise :class:`ParameterError` unless ``value`` is a number in [least, most], or perhaps 0."""
    good = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and (least <= value <= most or (or_zero and value == 0))
    )
    if not good:
        zero = "0, or " if or_zero else ""
        raise ParameterError(name, value, f"must be {zero}a number from {least:g} to {most:g}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise :class:`ParameterError` unless ``value`` is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ParameterError(name, value, f"must be one of {', '.join(choices)}")
