"""Decoding loops for transformers: ``generate(**inputs, custom_generate=pjd.decoding(...))``."""

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
"""Modules of :mod:`pjd.models` that have ``wrap``, by the ``model_type`` of a configuration."""

KNOWN = (
    PrefixConstrainedLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
"""Logits processors that ``generate`` may be given: sampling and guidance, which become options of
the decoder, and the format of an image, which the decoder keeps anyway."""

LENGTHS = (MaxLengthCriteria, EosTokenCriteria)
"""Stopping criteria that ``generate`` adds by itself, for texts. They are ignored: an image is as
long as its format says."""

UNKNOWN = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
"""Outputs other than tokens that ``generate`` may be asked for; a decoder does not keep them."""


def rows_of(ids: Tensor, mask: Tensor | None) -> list[list[int]]:
    """The tokens of each sequence of ``ids`` int64 [batch, length], without padding."""
    if mask is None:
        return ids.tolist()
    return [row[shown].tolist() for row, shown in zip(ids, mask.bool(), strict=True)]


def check_kinds(name: str, values: list[Any], kinds: tuple[type, ...]) -> None:
    """Raise :class:`ParameterError` unless each of ``values`` is an instance of ``kinds``."""
    for value in values:
        if not isinstance(value, kinds):
            allowed = ", ".join(kind.__name__ for kind in kinds)
            raise ParameterError(name, type(value).__name__, f"must be one of {allowed}")


def check_outputs(generation: GenerationConfig) -> None:
    """Raise :class:`ParameterError` if outputs other than tokens, or beam search, are wanted."""
    for name in UNKNOWN:
        if getattr(generation, name):
            raise ParameterError(name, True, "must be False: only tokens are returned")
    if (generation.num_beams or 1) > 1:
        raise ParameterError("num_beams", generation.num_beams, "must be 1")


def sampling_options(generation: GenerationConfig) -> dict[str, Any]:
    """The options of a decoder that correspond to the settings of transformers."""
    scale = generation.guidance_scale
    guidance = {} if scale is None else {"guidance": scale}
    if not generation.do_sample:
        return {**guidance, "temperature": 0.0}
    return {
        **guidance,
        "temperature": 1.0 if generation.temperature is None else generation.temperature,
        "top_k": generation.top_k or 0,
        "top_p": 1.0 if generation.top_p is None else generation.top_p,
    }


def decoding(
    method: str = "pjd", *, seed: int = 0, seeds: list[int] | None = None, **options: Any
) -> Callable[..., Tensor | GenerateDecoderOnlyOutput]:
    """A decoding loop for ``generate(custom_generate=...)`` of a transformers image model.

    The prompt must end with the token before the first code. As with any ``generate``, the result
    is the prompt and the image's tokens, row-end tokens included. ``max_new_tokens`` is ignored,
    since the format says how long an image is. The model's training mode, gradients and attention
    implementation are restored afterwards.

    Guidance, temperature, top-k, top-p and ``do_sample`` are those of ``generate``, unless given
    here; ``negative_prompt_ids`` is used too. Janus' ``generate`` does not pass on
    ``guidance_scale`` and ``logits_processor``: give ``guidance`` here, or in the model's
    ``generation_config``. Arguments that a decoder cannot honour are refused
    (``stopping_criteria``, ``output_scores`` and the like). Only a ``streamer`` cannot be refused,
    since transformers does not pass it on: it gets the prompt and nothing more.

    Args:
        method: a key of :data:`pjd.decoder.methods.PRESETS`.
        seed: of the first image; image i has ``seed + i``.
        seeds: one per image, in place of ``seed``.
        options: of :class:`pjd.decoder.config.DecodeConfig`, such as ``context=11``.

    Raises:
        ParameterError: at once, for an option that is not allowed; when generating, for a model or
            prompt that is not allowed, a logits processor without a corresponding option, stopping
            criteria, or outputs other than tokens.
    """
    # Wrong options are refused now, before anything is generated.
    configure(method, seed=seed, **options)

    def decode(
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        **inputs: Any,
    ) -> Tensor | GenerateDecoderOnlyOutput:
        """What ``generate`` calls. It passes on the mask only if no parameter has its name."""
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
            given = {**sampling_options(generation_config), **options}
            config = configure(method, **{"guidance": wrapped.guidance, "seed": seed, **given})
            tokens = decode_all(wrapped, config, numbers)
        end = tokens.new_tensor(wrapped.closing).expand(len(tokens), -1)
        sequences = torch.cat([input_ids, tokens, end], dim=1)
        if generation_config.return_dict_in_generate:
            return GenerateDecoderOnlyOutput(sequences=sequences)
        return sequences

    return decode


@contextmanager
def borrowed(model: PreTrainedModel) -> Iterator[None]:
    """Restore the training mode, gradients and attention of ``model`` afterwards."""
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
        # Setting a model sets its parts too. It comes before them in the list, so each part gets
        # its own value last.
        for part, value in zip(parts, attention, strict=True):
            part.set_attn_implementation(value)


def negative_prompts(processors: LogitsProcessorList) -> list[list[int]] | None:
    """Tokens of the ``negative_prompt_ids`` given to ``generate``, or None."""
    for processor in processors:
        if isinstance(processor, UnbatchedClassifierFreeGuidanceLogitsProcessor):
            negative = processor.unconditional_context
            if negative["input_ids"] is not None:
                return rows_of(negative["input_ids"], negative["attention_mask"])
    return None


def decode_all(wrapped: Wrapped, config: DecodeConfig, seeds: Tensor) -> Tensor:
    """Tokens int64 [batch, length] of the model's own vocabulary, row-end tokens included."""
    model = wrapped.model
    codes = Engine(model, config, wrapped.encode(config.guided), seeds).run().tokens
    tokens = model.tokens[codes].unflatten(1, (model.grid.rows, model.grid.columns))
    if model.grid.row_end is not None:
        tokens = torch.nn.functional.pad(tokens, (0, 1), value=model.grid.row_end)
    return tokens.flatten(1)
