"""Parallel Jacobi Decoding for ``generate(custom_generate=<this repository>)`` of transformers."""

from typing import Any

from transformers import GenerationMixin

import pjd


def generate(
    model: Any,
    pjd_method: str = "pjd",
    pjd_seed: int = 0,
    pjd_options: dict[str, Any] | None = None,
    streamer: None = None,
    **arguments: Any,
) -> Any:
    """Decode an image after the prompt; see :func:`pjd.decoding`.

    Args:
        model: an image model of transformers (Chameleon, Emu3, Janus).
        pjd_method: a decoder, such as "pjd", "sjd", "zipar".
        pjd_seed: of the first image; image i has ``pjd_seed + i``.
        pjd_options: of :class:`pjd.decoder.config.DecodeConfig`, such as ``{"context": 11}``.
        streamer: must be None, since tokens of several rows are committed at once.
        arguments: all other arguments of ``generate``.

    Returns:
        As from ``generate``: the tokens of the prompt and of the image.

    Raises:
        pjd.ParameterError: for an argument that is not allowed.
    """
    if streamer is not None:
        raise pjd.ParameterError("streamer", type(streamer).__name__, "must be None")
    loop = pjd.decoding(pjd_method, seed=pjd_seed, **(pjd_options or {}))
    return GenerationMixin.generate(model, custom_generate=loop, **arguments)
