"""The decoders: each is a preset of the one engine's choices."""

from typing import Any

from pjd.config import DecodeConfig, ParameterError, check_choice

PRESETS: dict[str, dict[str, Any]] = {
    # Vanilla autoregressive decoding: one position a forward, sampled and committed.
    "ar": {"view": "raster", "window": 1},
    # Speculative Jacobi Decoding, arXiv 2410.01699: the residual commits one token at least.
    "sjd": {"view": "raster", "window": 16},
    # Parallel Jacobi Decoding, arXiv 2606.05703: the top row alone commits by resampling.
    "pjd": {"view": "rows", "window": 8, "context": 4, "resample": "top-row"},
    # The paper's mask ablation: drafts of other rows are seen.
    "pjd-nomask": {
        "view": "rows",
        "window": 8,
        "context": 4,
        "resample": "top-row",
        "mask": "none",
    },
}


def configure(method: str, **options: Any) -> DecodeConfig:
    """Make the configuration of ``method`` with some of its options changed.

    Args:
        method: a key of :data:`PRESETS`.
        options: fields of :class:`DecodeConfig`; None keeps the preset's value.

    Raises:
        ParameterError: for an unknown method or option, or a value outside its range.
    """
    check_choice("method", method, tuple(PRESETS))
    unknown = sorted(set(options) - DecodeConfig.names() | set(options) & {"method", "view"})
    if unknown:
        allowed = f"no such option; options are {', '.join(sorted(DecodeConfig.names()))}"
        raise ParameterError(unknown[0], options[unknown[0]], allowed)
    chosen = {name: value for name, value in options.items() if value is not None}
    return DecodeConfig(method=method, **{**PRESETS[method], **chosen})
