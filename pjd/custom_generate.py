"""The door of transformers: ``model.generate(**inputs, custom_generate=pjd.decoding(...))``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)
from transformers.generation import (
    EosTokenCriteria,
    GenerateDecoderOnlyOutput,
    MaxLengthCriteria,
    PrefixConstrainedLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from pjd.api import check_seeds
from pjd.decoder.config import DecodeConfig
from pjd.decoder.engine import Engine
from pjd.decoder.methods import configure
from pjd.errors import ParameterError
from pjd.models.transformers_decoder import Wrapped

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

LENGTHS = (MaxLengthCriteria, EosTokenCriteria)
"""What ``generate`` stops a text by, of itself. An image is as long as its format says."""

UNKNOWN = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
"""What ``generate`` may be asked to return besides tokens, which a decoder does not keep."""


def rows_of(ids: Tensor, mask: Tensor | None) -> list[list[int]]:
    """The tokens [batch, length] of each sequence, without padding."""
    if mask is None:
        return ids.tolist()
    return [row[shown].tolist() for row, shown in zip(ids, mask.bool(), strict=True)]


def check_kinds(name: str, values: list[Any], kinds: tuple[type, ...]) -> None:
    """Raise :class:`ParameterError` unless each of ``values`` is one of ``kinds``."""
    for value in values:
        if not isinstance(value, kinds):
            allowed = ", ".join(kind.__name__ for kind in kinds)
            raise ParameterError(name, type(value).__name__, f"must be one of {allowed}")


def check_outputs(generation: GenerationConfig) -> None:
    """Raise :class:`ParameterError` if more than tokens is to be returned, or beams searched."""
    for name in UNKNOWN:
        if getattr(generation, name):
            raise ParameterError(name, True, "must be False: tokens alone are returned")
    if (generation.num_beams or 1) > 1:
        raise ParameterError("num_beams", generation.num_beams, "must be 1")


def sampling(generation: GenerationConfig) -> dict[str, Any]:
    """The decoder's options that transformers' own settings stand for."""
    guidance = generation.guidance_scale
    chosen = {} if guidance is None else {"guidance": guidance}
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

    The model is left as it was: its training mode, gradients and attention come back.

    The prompt must end with the token before the first image code. Returned are the prompt and
    the image's tokens, row ends included, as ``generate`` would; ``max_new_tokens`` is not asked,
    since the format says how long an image is. Guidance, temperature, top-k, top-p and
    ``do_sample`` are those of ``generate`` unless given here; so is ``negative_prompt_ids``.
    Janus' ``generate`` withholds ``guidance_scale`` and ``logits_processor``: give ``guidance``
    here, or have the one in its ``generation_config``. What a decoder has no use for is refused
    (``stopping_criteria``, ``output_scores`` and the like), but a ``streamer``, which transformers
    withholds, gets the prompt and nothing more.

    Args:
        method: a key of :data:`pjd.decoder.methods.PRESETS`.
        seed: of the first image; image i has ``seed + i``.
        seeds: one an image, instead.
        options: of :class:`pjd.decoder.config.DecodeConfig`, such as ``context=11``.

    Raises:
        ParameterError: for an option that is not allowed, at once; for a model or a prompt that
            is not, a logits processor that no option stands for, stopping criteria, or outputs
            other than tokens, when generating.
    """
    # What is wrong by itself is refused before a prompt is read.
    configure(method, seed=seed, **options)

    def decode(
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **inputs: Any,
    ) -> Tensor | GenerateDecoderOnlyOutput:
        """What ``generate`` calls. It would withhold the mask if a parameter had its name."""
        kind = model.config.model_type
        if kind not in FAMILIES:
            allowed = f"must be one of {', '.join(FAMILIES)}; others: docs/your_own_model.md"
            raise ParameterError("model_type", kind, allowed)
        check_kinds("logits_processor", logits_processor, KNOWN)
        check_kinds("stopping_criteria", stopping_criteria, LENGTHS)
        check_outputs(generation_config)
        conditional = rows_of(input_ids, inputs.get("attention_mask"))
        numbers = check_seeds(seeds, seed, len(conditional))
        family = import_module(f"pjd.models.{kind}")
        with borrowed(model):
            wrapped = family.wrap(model, conditional, negative_prompts(logits_processor))
            asked = {"guidance": wrapped.guidance, **sampling(generation_config), **options}
            tokens = decode_all(wrapped, configure(method, seed=seed, **asked), numbers)
        end = tokens.new_tensor(wrapped.closing).expand(len(tokens), -1)
        sequences = torch.cat([input_ids, tokens, end], dim=1)
        if generation_config.return_dict_in_generate:
            return GenerateDecoderOnlyOutput(sequences=sequences)
        return sequences

    return decode


@contextmanager
def borrowed(model: PreTrainedModel) -> Iterator[None]:
    """Afterwards the training mode, gradients and attention of ``model`` are as before."""
    training = {module: module.training for module in model.modules()}
    gradients = {parameter: parameter.requires_grad for parameter in model.parameters()}
    parts = [module for module in training if isinstance(module, PreTrainedModel)]
    attention = [part.config._attn_implementation for part in parts]
    try:
        yield
    finally:
        for module, value in training.items():
            module.training = value
        for parameter, value in gradients.items():
            parameter.requires_grad_(value)
        # A whole sets its parts too, and comes before them.
        for part, value in zip(parts, attention, strict=True):
            part.set_attn_implementation(value)


def negative_prompts(processors: LogitsProcessorList) -> list[list[int]] | None:
    """Tokens of the ``negative_prompt_ids`` that ``generate`` was given, or None."""
    for processor in processors:
        if isinstance(processor, UnbatchedClassifierFreeGuidanceLogitsProcessor):
            negative = processor.unconditional_context
            if negative["input_ids"] is not None:
                return rows_of(negative["input_ids"], negative["attention_mask"])
    return None


def decode_all(wrapped: Wrapped, config: DecodeConfig, seeds: Tensor) -> Tensor:
    """Tokens int64 [batch, length] of the model's own vocabulary, row ends included."""
    model = wrapped.model
    codes = Engine(model, config, wrapped.encode(config.guided), seeds).run().tokens
    tokens = model.tokens[codes].unflatten(1, (model.grid.rows, model.grid.columns))
    if model.grid.row_end is not None:
        tokens = torch.nn.functional.pad(tokens, (0, 1), value=model.grid.row_end)
    return tokens.flatten(1)
