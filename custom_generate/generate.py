"""Parallel Jacobi Decoding for ``generate(custom_generate=<this repository>)`` of transformers."""

from typing import Any

from transformers import GenerationMixin

import pjd
from pjd.decoder.methods import combine


def generate(
    model: Any,
    pjd_method: str = "pjd",
    pjd_seed: int = 0,
    pjd_options: dict[str, Any] | None = None,
    streamer: None = None,
    assistant_model: None = None,
    **arguments: Any,
) -> Any:
    """Decode an image after the prompt; see :func:`pjd.decoding`.

    Args:
        model: an image model of transformers (Chameleon, Emu3, Janus).
        pjd_method: a decoder, such as "pjd", "sjd", "zipar".
        pjd_seed: of the first image; image i has ``pjd_seed + i``.
        pjd_options: of :class:`pjd.decoder.config.DecodeConfig`, such as ``{"context": 11}``.
        streamer: must be None, since tokens of several rows are committed at once.
        assistant_model: must be None, since a decoder drafts by itself.
        arguments: all other arguments of ``generate``.

    Returns:
        As from ``generate``: the tokens of the prompt and of the image.

    Raises:
        pjd.ParameterError: for an argument that is not allowed.
    """
    for name, value in {"streamer": streamer, "assistant_model": assistant_model}.items():
        if value is not None:
            raise pjd.ParameterError(name, type(value).__name__, "must be None")
    options = combine({} if pjd_options is None else pjd_options)
    if "seed" in options:
        allowed = f"is given twice, also as pjd_seed = {pjd_seed!r}: give pjd_seed alone"
        raise pjd.ParameterError("seed", options["seed"], allowed)
    if arguments.get("negative_prompt_ids") is not None and "guidance" in options:
        # Without it, transformers would drop the negative prompts.
        arguments.setdefault("guidance_scale", options["guidance"])
    loop = pjd.decoding(pjd_method, seed=pjd_seed, **options)
    return GenerationMixin.generate(model, custom_generate=loop, **arguments)
