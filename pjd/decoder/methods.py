"""The decoders: each is a preset of the one engine's choices."""

from typing import Any

from pjd.decoder.config import DecodeConfig, ParameterError, check_choice

PAPER = {"view": "rows", "window": 8, "context": 4, "resample": "top-row"}
"""Parallel Jacobi Decoding, arXiv 2606.05703: only the top row commits by resampling."""

PRESETS: dict[str, dict[str, Any]] = {
    # Vanilla autoregressive decoding: one position a forward, sampled and committed.
    "ar": {"view": "raster", "window": 1},
    # Fixed-point iteration: a draft is kept if it is drawn again under the same noise. With the
    # same noise, `ar` gives the same tokens, greedy or not.
    "jacobi": {"view": "raster", "window": 16, "accept": "match", "redraft": "gumbel"},
    # Speculative Jacobi Decoding, arXiv 2410.01699.
    "sjd": {"view": "raster", "window": 16},
    # Maximal coupling, arXiv 2510.24211: drafts change as little as their distributions.
    "mc-sjd": {"view": "raster", "window": 32, "redraft": "coupled"},
    # Grouped Speculative Decoding, arXiv 2508.07747.
    "gsd": {"view": "raster", "window": 16, "accept": "group", "group": 10},
    # ZipAR, arXiv 2412.04062: a wavefront, and no drafts.
    "zipar": {"view": "rows", "window": 1, "context": 4},
    "zipar-adaptive": {
        "view": "rows",
        "window": 1,
        "context": 4,
        "start": "adaptive",
        "redraft": "coupled",
    },
    "pjd": PAPER,
    # The paper's mask ablation: drafts of other rows are seen.
    "pjd-nomask": {**PAPER, "mask": "none"},
    # What the authors' released code does, as we read it, defects included (METHODS 3).
    "pjd-released": {
        **PAPER,
        "mask": "released",
        "redraft": "threshold",
        "reach": "inside-gap",
        "finish": "released",
    },
    # Ours: every row commits its residual, coupled drafts reach past the gap, and a better
    # stand-in (METHODS 6.1, 6.5, 7.1 and 8).
    "pjd-plus": {
        "view": "rows",
        "window": 8,
        "context": 4,
        "redraft": "coupled",
        "reach": "window",
        "stand_in": "above",
    },
    # Ours: every code keeps its distance, so that the target M_c is one fixed model (METHODS 6.7).
    "pjd-staircase": {
        "view": "rows",
        "window": 8,
        "context": 4,
        "lag": "fixed",
        "redraft": "coupled",
        "reach": "window",
        "stand_in": "above",
    },
}
"""Methods by name. A new one is a new entry; see docs/adding_a_decoder.md."""


def configure(method: str, **options: Any) -> DecodeConfig:
    """Make the configuration of ``method`` with some of its options changed.

    Args:
        method: a key of :data:`PRESETS`.
        options: fields of :class:`DecodeConfig`; None keeps the preset's value.

    Raises:
        ParameterError: for an unknown method or option, or a value outside its range.
    """
    check_choice("method", method, tuple(PRESETS))
    known = DecodeConfig.names() - {"method", "view"}
    unknown = sorted(set(options) - known)
    if unknown:
        allowed = f"no such option; options are {', '.join(sorted(known))}"
        raise ParameterError(unknown[0], options[unknown[0]], allowed)
    chosen = {name: value for name, value in options.items() if value is not None}
    return DecodeConfig(method=method, **{**PRESETS[method], **chosen})
