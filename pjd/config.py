"""Every option of a decoder, in one frozen and checked record."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

View = Literal["raster", "rows"]
Mask = Literal["row-causal", "none"]
Resample = Literal["every-row", "top-row"]


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


@dataclass(frozen=True)
class DecodeConfig:
    """What a decoder does: the four choices of the method, and how tokens are sampled.

    Use :func:`pjd.methods.configure` to make one from a method's name.

    Attributes:
        method: the preset's name, for labels only.
        view: "raster": the image is one row of R*C codes (AR, SJD); "rows": R rows of C codes,
            several active at once (PJD).
        window: positions predicted in an active row by one forward: its last committed token and
            up to ``window - 1`` drafts are fed. At least 1 (no drafts).
        context: codes that the row above must have committed before a row starts (the paper's c).
            None in the raster view; values above C mean "the whole row".
        rows: most rows active at once; None: as many as may start.
        mask: "row-causal": drafts are seen by their own row only; "none": by every later row.
        resample: which rows commit a token drawn from the residual at their first rejection, or
            after a fully accepted window: every active row, or the top-most only (the paper).
        guidance: classifier-free guidance scale, 1 = off; at least 0.
        temperature: at least 0; 0 is greedy.
        top_k: sample among the k likeliest codes only; 0 = all.
        top_p: sample among the likeliest codes of this total probability only; in (0, 1].
        seed: of the first image; image i has seed + i. At least 0.

    Raises:
        ParameterError: if an option is outside its range.
    """

    method: str
    view: View
    window: int
    context: int | None = None
    rows: int | None = None
    mask: Mask = "row-causal"
    resample: Resample = "every-row"
    guidance: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every option."""
        check_choice("view", self.view, get_args(View))
        check_choice("mask", self.mask, get_args(Mask))
        check_choice("resample", self.resample, get_args(Resample))
        check_integer("window", self.window, 1)
        if self.view == "raster":
            for name in ("context", "rows"):
                if getattr(self, name) is not None:
                    allowed = f"method {self.method} has no such option: its image is one row"
                    raise ParameterError(name, getattr(self, name), allowed)
        else:
            check_integer("context", self.context, 1)
            if self.rows is not None:
                check_integer("rows", self.rows, 1)
        check_number("guidance", self.guidance, 0)
        check_number("temperature", self.temperature, 0)
        check_integer("top_k", self.top_k, 0)
        check_number("top_p", self.top_p, 1e-6, 1)
        check_integer("seed", self.seed, 0, 2**62)

    @classmethod
    def names(cls) -> set[str]:
        """Names of all options."""
        return {field.name for field in fields(cls)}

    def as_dict(self) -> dict[str, Any]:
        """All options, for a provenance stamp."""
        return asdict(self)

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that differ whenever an option differs."""
        text = json.dumps(self.as_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]
