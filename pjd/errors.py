"""Errors for people: what was wrong, the value seen, and what is allowed."""

from collections.abc import Sequence
from numbers import Integral, Real
from operator import index
from typing import Any

SHOWN = 160
"""Characters of a value that an error shows at most."""


class ParameterError(ValueError):
    """A parameter outside its range: the message names it, its value and what is allowed."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        """Compose the message, one line even if the name of an option or of a file is not."""
        super().__init__(" ".join(f"{name} = {shown(value)}: {allowed}".splitlines()))

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive the way from a worker to its caller: pickling calls with the message alone."""
        return _with_message, (type(self), *self.args)


def no_guidance(model: str, scale: object) -> ParameterError:
    """The error of a guidance scale other than 1 for a model without an unconditional branch."""
    return ParameterError("guidance", scale, f"must be 1: {model} has no unconditional branch")


def no_grid_before(option: str, value: object, model: str) -> ParameterError:
    """The error of an option that needs the grid before an image's, for a model that has none."""
    return ParameterError(option, value, f"must be another: {model} has one grid alone")


class LogitsError(ValueError):
    """Logits that are no finite numbers: a model or options from which nothing can be drawn."""


def shown(value: object) -> str:
    """``value`` as an error shows it: in one line, and cut if it is long."""
    try:
        text = " ".join(repr(value).splitlines())
    except ValueError:
        # Python refuses to write an integer of thousands of digits.
        text = f"<{type(value).__name__} of very many digits>"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def one_line(message: object, most: int | None = None) -> str:
    """A message, such as an error, without line breaks, cut to ``most`` characters if given."""
    return " ".join(str(message).split())[:most]


def _with_message(kind: type[ParameterError], message: str) -> ParameterError:
    """An error that says ``message``, whatever its own arguments were."""
    error = kind.__new__(kind, message)
    error.args = (message,)
    return error


def check_integer(name: str, value: object, least: int, most: int | None = None) -> int:
    """``value``, which may be NumPy's, as an int of Python.

    Raises:
        ParameterError: unless it is an integer in [least, most].
    """
    # bool is an integer to Python; YAML's `true` must not pass for 1.
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = index(value)
        if least <= number and (most is None or number <= most):
            return number
    span = f"at least {least}" if most is None else f"from {least} to {most}"
    raise ParameterError(name, value, f"must be an integer {span}")


def check_number(
    name: str, value: object, least: float, most: float, or_zero: bool = False
) -> int | float:
    """``value``, which may be NumPy's, as an int or a float of Python.

    Raises:
        ParameterError: unless it is a real number in [least, most], or perhaps 0.
    """
    # To mypy, real numbers have no order.
    real: Any = value
    if (
        isinstance(value, Real)
        and not isinstance(value, bool)
        # Not true of what is no number or infinite, since the bounds are finite.
        and (least <= real <= most or (or_zero and real == 0))
    ):
        # 7 stays 7 and not 7.0: names of images are digests of how options are written.
        return index(real) if isinstance(value, Integral) else float(real)
    zero = "0, or " if or_zero else ""
    raise ParameterError(name, value, f"must be {zero}a number from {least:g} to {most:g}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise :class:`ParameterError` unless ``value`` is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ParameterError(name, value, f"must be one of {', '.join(choices)}")


def check_list(name: str, value: object, of: str) -> None:
    """Raise :class:`ParameterError` unless ``value`` is a list, a tuple or the like.

    Args:
        name: of the parameter.
        value: a single text is no list: it would be taken for a list of letters.
        of: what it must hold, for the message.
    """
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise ParameterError(name, value, f"must be a list of {of}")


def check_text(name: str, value: object) -> None:
    """Raise :class:`ParameterError` unless ``value`` is a text of UTF-8 that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise ParameterError(name, value, "must be a text that is not empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        allowed = "must be UTF-8; from the command line, the locale must be too (LC_ALL=C.UTF-8)"
        raise ParameterError(name, value, allowed) from error


def check_prompts(prompts: object, said: bool = True) -> None:
    """Check the prompts of images.

    Args:
        prompts: one per image.
        said: whether the model takes prompts; for one that does not, each is "".

    Raises:
        ParameterError: unless ``prompts`` is a list of texts that are not blank, or are all "".
    """
    check_list("prompts", prompts, "texts, such as ['a cat']" if said else "texts, all ''")
    if not prompts:
        raise ParameterError("prompts", prompts, "must hold at least one prompt")
    for prompt in prompts:  # type: ignore[attr-defined]
        if said:
            check_text("prompt", prompt)
        elif prompt != "":
            raise ParameterError("prompt", prompt, "must be '': this model takes no prompts")
