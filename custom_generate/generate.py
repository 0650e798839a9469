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
        pjd_seed: of the first image; image i has that plus i.
        pjd_options: of :class:`pjd.decoder.config.DecodeConfig`, such as ``{"context": 11}``.
        streamer: must be None: codes of many rows are found at once, in no order to stream.
        arguments: all others of ``generate``, as they are.

    Returns:
        What ``generate`` would: the prompt's tokens and the image's.

    Raises:
        pjd.ParameterError: for what is not allowed.
    """
    if streamer is not None:
        raise pjd.ParameterError("streamer", type(streamer).__name__, "must be None")
    door = pjd.decoding(pjd_method, seed=pjd_seed, **(pjd_options or {}))
    return GenerationMixin.generate(model, custom_generate=door, **arguments)
