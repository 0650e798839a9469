"""Every option of a decoder, in one frozen and checked record."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from pjd.decoder.acceptance import RULES

View = Literal["raster", "rows"]
Mask = Literal["row-causal", "none", "released"]
Resample = Literal["every-row", "top-row"]
Start = Literal["context", "adaptive"]
Lag = Literal["at-start", "fixed"]
Reach = Literal["gap", "window", "inside-gap"]
StandIn = Literal["newest", "last-column", "above"]
Initial = Literal["random", "uniform", "repeat-left", "sample-left", "repeat-above"]
Redraft = Literal["fresh", "coupled", "gumbel", "threshold"]
Finish = Literal["aligned", "released"]


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


CHOICES: dict[str, tuple[str, ...]] = {
    "view": get_args(View),
    "start": get_args(Start),
    "lag": get_args(Lag),
    "reach": get_args(Reach),
    "stand_in": get_args(StandIn),
    "mask": get_args(Mask),
    "initial": get_args(Initial),
    "redraft": get_args(Redraft),
    "resample": get_args(Resample),
    "finish": get_args(Finish),
}
"""The options that are words, and the words that each may be."""


@dataclass(frozen=True)
class DecodeConfig:
    """What a decoder does: the choices of the method, and how tokens are sampled.

    Use :func:`pjd.decoder.methods.configure` to make one from a method's name.

    Attributes:
        method: the preset's name, for labels only.
        view: "raster": the image is one row of R*C codes (AR, SJD); "rows": R rows of C codes,
            several active at once (ZipAR, PJD).
        window: positions predicted in an active row by one forward: its last committed token and
            up to ``window - 1`` drafts are fed. At least 1.
        context: codes that the row above must have committed before a row starts (the paper's c).
            None in the raster view; values above C mean "the whole row".
        rows: most rows active at once; None: as many as may start.
        start: a row starts once the row above has ``context`` codes ("context"), or once it has
            them and the row's first code has stood a test against the view of one forward later
            ("adaptive" ZipAR, METHODS 2.11).
        lag: what c means after a row has started. "at-start": nothing, a row may come up to the
            one above (the paper). "fixed": the code at column j sees of the row k above the
            columns before j + k*c, neither more nor less, and waits for them: the staircase
            model M_c (METHODS 6.7).
        reach: how far a row drafts. "gap": no further than it may commit; "window": to the end of
            its window, past the gap; "inside-gap": one short of the gap (released code).
        stand_in: input of a row that starts before the row above is complete, in a format without
            row-end tokens: the "newest" code of the row above (the paper), the code in the
            "last-column" of the nearest complete row (the newest above where there is none), or
            the code "above" the row's first.
        mask: "row-causal": drafts are seen by their own row only; "none": by every later row;
            "released": by those that the released code's wrong offsets leave unprotected
            (METHODS 3.2).
        initial: new drafts: a "random" code, declared as certain; a random code, declared as
            "uniform"; the left neighbour's code ("repeat-left") or the likeliest one of its
            distribution ("sample-left"); the code of the row above ("repeat-above"). Where there
            is no such neighbour, a random code.
        accept: the test of a draft, a key of :data:`pjd.decoder.acceptance.RULES`.
        group: most codes of a group, for ``accept`` "group"; at least 1.
        redraft: what drafts behind the first rejection become. "fresh": independent samples of
            the new p; "coupled": kept with probability min(1, p/q), else drawn from the residual
            (maximal coupling); "gumbel": the maximum of log p plus noise that is fixed for each
            position; "threshold": kept, q too, if p/q > 1/2, else fresh (released code).
        resample: which rows commit a token drawn from the residual at their first rejection, or
            after a fully accepted window: every active row, or the top-most only (the paper).
        finish: in the iteration after a row is finished, drafts are tested against their own
            distributions ("aligned"), or against those one place on ("released", METHODS 3.3).
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
    start: Start = "context"
    lag: Lag = "at-start"
    reach: Reach = "gap"
    stand_in: StandIn = "newest"
    mask: Mask = "row-causal"
    initial: Initial = "random"
    accept: str = "ratio"
    group: int = 1
    redraft: Redraft = "fresh"
    resample: Resample = "every-row"
    finish: Finish = "aligned"
    guidance: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every option."""
        for name, choices in CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        check_choice("accept", self.accept, tuple(RULES))
        check_integer("window", self.window, 1)
        check_integer("group", self.group, 1)
        if self.accept == "match" and self.redraft not in ("fresh", "gumbel"):
            allowed = "must be fresh or gumbel where a draft is kept if it is drawn again"
            raise ParameterError("redraft", self.redraft, allowed)
        if self.lag == "fixed" and (self.mask != "row-causal" or self.start != "context"):
            allowed = "fixed needs mask row-causal and start context: its target is one fixed model"
            raise ParameterError("lag", self.lag, allowed)
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
