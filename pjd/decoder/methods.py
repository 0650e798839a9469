"""The decoders: each is a preset of the one engine's choices."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pjd.decoder.config import DecodeConfig
from pjd.errors import ParameterError, check_choice, shown

KNOBS = {"window": "W", "group_size": "G", "context": "c"}
"""The options that presets are swept over, and the letter of each."""


@dataclass(frozen=True)
class Preset:
    """A method: its choices, and what readers are told of it.

    Attributes:
        title: its name in figures and tables.
        summary: what it does, in a few words.
        paper: where it comes from: an arXiv number, or "ours".
        knob: the option that it is swept over, a key of :data:`KNOBS`; None: it has none.
        choices: options of :class:`pjd.decoder.config.DecodeConfig`, those that are not defaults.
        window_rows: its window in rows of the grid, where the grid is known; None: that of
            ``choices`` on every grid.
    """

    title: str
    summary: str
    paper: str
    knob: str | None
    choices: dict[str, Any]
    window_rows: int | None = None

    @property
    def by_rows(self) -> bool:
        """Whether it works on several rows at once, and so has context tokens c."""
        return self.choices["layout"] == "rows"

    @property
    def one_at_a_time(self) -> bool:
        """Whether it predicts one token per row and forward pass: that is what makes it."""
        return self.choices["window"] == 1


RASTER = {"layout": "raster", "window": 16}
ROWS = {"layout": "rows", "window": 8, "context": 4}
PAPER = {**ROWS, "resample": "top-row"}
"""Parallel Jacobi Decoding: only the top active row commits by resampling."""
COUPLED = {**ROWS, "redraft": "coupled", "draft_limit": "window", "stand_in": "above"}

PRESETS: dict[str, Preset] = {
    "ar": Preset(
        title="AR",
        summary="one token per forward pass, sampled and committed",
        paper="the model's own",
        knob=None,
        choices={"layout": "raster", "window": 1},
    ),
    "jacobi": Preset(
        title="Jacobi",
        summary="fixed-point iteration; in single precision the tokens of `ar` with its noise",
        paper="2305.10427",
        knob="window",
        choices={**RASTER, "accept": "match", "redraft": "gumbel"},
    ),
    "sjd": Preset(
        title="SJD",
        summary="speculative Jacobi decoding; exactly AR's distribution",
        paper="2410.01699",
        knob="window",
        choices=RASTER,
    ),
    "mc-sjd": Preset(
        title="MC-SJD",
        summary="SJD with coupled drafts over two rows of the grid; exactly AR's distribution",
        paper="2510.24211",
        knob="window",
        choices={**RASTER, "window": 32, "redraft": "coupled"},
        window_rows=2,
    ),
    "gsd": Preset(
        title="GSD",
        summary="SJD that accepts by groups of similar tokens",
        paper="2508.07747",
        knob="group_size",
        choices={**RASTER, "accept": "group", "group_size": 10},
    ),
    "zipar": Preset(
        title="ZipAR",
        summary="a wavefront of rows, no drafts",
        paper="2412.04062",
        knob="context",
        choices={**ROWS, "window": 1},
    ),
    "zipar-adaptive": Preset(
        title="ZipAR, adaptive",
        summary="ZipAR whose rows start when their first token is stable",
        paper="2412.04062",
        knob="context",
        choices={**ROWS, "window": 1, "start": "adaptive", "redraft": "coupled"},
    ),
    "pjd": Preset(
        title="PJD",
        summary="the paper's: a wavefront of rows with drafts, row-causal mask",
        paper="2606.05703",
        knob="context",
        choices=PAPER,
    ),
    "pjd-nomask": Preset(
        title="PJD, no mask",
        summary="the paper's mask ablation: later rows see drafts",
        paper="2606.05703",
        knob="context",
        choices={**PAPER, "mask": "none"},
    ),
    "pjd-released": Preset(
        title="PJD as released",
        summary="PJD with four differences found in the authors' code",
        paper="2606.05703",
        knob="context",
        choices={
            **PAPER,
            "mask": "released",
            "redraft": "threshold",
            "draft_limit": "released",
            "finish": "released",
        },
    ),
    "pjd-plus": Preset(
        title="PJD-plus",
        summary="every row commits its residual, coupled drafts past the row above",
        paper="ours",
        knob="context",
        choices=COUPLED,
    ),
    "pjd-staircase": Preset(
        title="PJD-staircase",
        summary="a fixed lag, exactly the distribution of its own target",
        paper="ours",
        knob="context",
        choices={**COUPLED, "lag": "fixed"},
    ),
}
"""Methods by name, in the order of every list. To add one, see docs/adding_a_decoder.md."""


ELSEWHERE = {
    "method": "is no option of a method: name the method in its own place, such as --method",
    "layout": "is what a method is made for: choose another method, see `pjd methods`",
}
"""Fields of :class:`DecodeConfig` that are no options of a method, and what to do instead."""


def check_options(options: Mapping[str, Any]) -> None:
    """Raise :class:`ParameterError` for the first of ``options`` that no method has."""
    known = DecodeConfig.names() - ELSEWHERE.keys()
    for name in sorted(options.keys() - known, key=str):
        allowed = ELSEWHERE.get(name, f"no such option; options are {', '.join(sorted(known))}")
        raise ParameterError(str(name), options[name], allowed)


def combine(*places: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are given in several places, each of them in one; None is not given.

    Raises:
        ParameterError: for an option that no method has, or that is given twice, with both values.
    """
    combined: dict[str, Any] = {}
    for place in places:
        if not isinstance(place, Mapping):
            raise ParameterError("options", place, "must be a mapping, such as {stand_in: above}")
        check_options(place)
        for name, value in place.items():
            if value is None:
                continue
            if name in combined:
                allowed = f"is given twice, also as {shown(combined[name])}: give it once"
                raise ParameterError(name, value, allowed)
            combined[name] = value
    return combined


def configure(method: str, *, columns: int | None = None, **options: Any) -> DecodeConfig:
    """Make the configuration of ``method`` with some of its options changed.

    Args:
        method: a key of :data:`PRESETS`.
        columns: of the model's grid, if it is known: some presets have their window from it.
        options: fields of :class:`DecodeConfig`; None keeps the preset's value.

    Raises:
        ParameterError: for an unknown method or option, or a value outside its range.
    """
    check_choice("method", method, tuple(PRESETS))
    check_options(options)
    chosen = {name: value for name, value in options.items() if value is not None}
    preset = PRESETS[method]
    if preset.one_at_a_time and chosen.get("window", 1) != 1:
        allowed = f"must be 1: {method} drafts nothing; choose another method, see `pjd methods`"
        raise ParameterError("window", chosen["window"], allowed)
    choices = dict(preset.choices)
    if columns is not None and preset.window_rows is not None:
        choices["window"] = preset.window_rows * columns
    return DecodeConfig(method=method, **{**choices, **chosen})
