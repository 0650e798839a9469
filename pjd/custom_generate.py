"""The door of transformers: ``model.generate(**inputs, custom_generate=pjd.decoding(...))``."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation import (
    GenerateDecoderOnlyOutput,
    PrefixConstrainedLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from pjd.config import DecodeConfig, ParameterError
from pjd.engine import Engine
from pjd.generation import check_seeds
from pjd.methods import configure

FAMILIES = ("chameleon", "emu3", "janus")
"""Modules of :mod:`pjd.models`, by ``config.model_type``: their ``wrap`` takes tokens."""

KNOWN = (
    PrefixConstrainedLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
"""What may be asked of ``generate`` besides: sampling, guidance, and the format of an image, which
is kept anyway."""


def rows_of(ids: Tensor, mask: Tensor | None) -> list[list[int]]:
    """The tokens [batch, length] of each sequence, without padding."""
    if mask is None:
        return ids.tolist()
    return [row[shown].tolist() for row, shown in zip(ids, mask.bool(), strict=True)]


def sampling(generation: GenerationConfig, processors: LogitsProcessorList) -> dict[str, Any]:
    """The decoder's options that transformers' own settings stand for.

    Raises:
        ParameterError: if there is a logits processor that no option stands for.
    """
    for processor in processors:
        if not isinstance(processor, KNOWN):
            known = ", ".join(kind.__name__ for kind in KNOWN)
            name = type(processor).__name__
            raise ParameterError("logits_processor", name, f"must be one of {known}")
    chosen = {"guidance": generation.guidance_scale or 1.0}
    if not generation.do_sample:
        return {**chosen, "temperature": 0.0}
    return {
        **chosen,
        "temperature": 1.0 if generation.temperature is None else generation.temperature,
        "top_k": generation.top_k or 0,
        "top_p": 1.0 if generation.top_p is None else generation.top_p,
    }


def decoding(
    method: str = "pjd", *, seed: int = 0, seeds: list[int] | None = None, **options: Any
) -> Callable[..., Tensor | GenerateDecoderOnlyOutput]:
    """A decoding loop for ``generate(custom_generate=...)`` of a transformers image model.

    The prompt must end with the token before the first image code. Returned are the prompt and
    the image's tokens, row ends included, as ``generate`` would; ``max_new_tokens`` is not asked,
    since the format says how long an image is. Guidance, temperature, top-k, top-p and
    ``do_sample`` are those of ``generate`` unless given here; so is ``negative_prompt_ids``.

    Args:
        method: a key of :data:`pjd.methods.PRESETS`.
        seed: of the first image; image i has ``seed + i``.
        seeds: one an image, instead.
        options: of :class:`pjd.config.DecodeConfig`, such as ``context=11``.

    Raises:
        ParameterError: for an option that is not allowed, at once; for a model or a prompt that
            is not, or a logits processor that no option stands for, when generating.
    """
    # What is wrong by itself is refused before a prompt is read.
    configure(method, seed=seed, **options)

    def decode(
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        generation_config: GenerationConfig,
        **inputs: Any,
    ) -> Tensor | GenerateDecoderOnlyOutput:
        """What ``generate`` calls. It would withhold the mask if a parameter had its name."""
        kind = model.config.model_type
        if kind not in FAMILIES:
            allowed = f"must be one of {', '.join(FAMILIES)}; others: docs/your_own_model.md"
            raise ParameterError("model_type", kind, allowed)
        asked = sampling(generation_config, logits_processor)
        config = configure(method, seed=seed, **{**asked, **options})
        conditional = rows_of(input_ids, inputs.get("attention_mask"))
        family = import_module(f"pjd.models.{kind}")
        wrapped, closing = family.wrap(model, conditional, negative_prompts(logits_processor))
        tokens = decode_all(wrapped, config, check_seeds(seeds, seed, len(conditional)))
        end = tokens.new_tensor(closing).expand(len(tokens), -1)
        sequences = torch.cat([input_ids, tokens, end], dim=1)
        if generation_config.return_dict_in_generate:
            return GenerateDecoderOnlyOutput(sequences=sequences)
        return sequences

    return decode


def negative_prompts(processors: LogitsProcessorList) -> list[list[int]] | None:
    """Tokens of the ``negative_prompt_ids`` that ``generate`` was given, or None."""
    for processor in processors:
        if isinstance(processor, UnbatchedClassifierFreeGuidanceLogitsProcessor):
            negative = processor.unconditional_context
            if negative["input_ids"] is not None:
                return rows_of(negative["input_ids"], negative["attention_mask"])
    return None


def decode_all(model: Any, config: DecodeConfig, seeds: Tensor) -> Tensor:
    """Tokens int64 [batch, length] of the model's own vocabulary, row ends included."""
    numbers = [str(number) for number in range(len(seeds))]
    codes = Engine(model, config, numbers, seeds).run().tokens
    tokens = model.tokens[codes].unflatten(1, (model.grid.rows, model.grid.columns))
    if model.grid.row_end is not None:
        tokens = torch.nn.functional.pad(tokens, (0, 1), value=model.grid.row_end)
    return tokens.flatten(1)
