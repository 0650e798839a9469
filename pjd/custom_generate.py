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
    GenerationMode,
    MaxLengthCriteria,
    MinPLogitsWarper,
    PrefixConstrainedLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from pjd.api import check_fit, check_seeds, seeds_of
from pjd.decoder.config import DecodeConfig
from pjd.decoder.engine import Engine
from pjd.decoder.methods import check_options, configure
from pjd.decoder.ordinary import ordinary_state
from pjd.errors import ParameterError, shown
from pjd.models.transformers_decoder import Wrapped

FAMILIES = ("chameleon", "emu3", "janus")
"""Modules of :mod:`pjd.models` that have ``wrap``, by the ``model_type`` of a configuration."""

KNOWN = (
    MinPLogitsWarper,
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

READ = ("attention_mask", "position_ids")
"""Inputs beside the tokens that are read."""

PREPARED = ("past_key_values", "use_cache", "logits_to_keep", "mm_encoder_outputs")
"""Inputs that ``generate`` makes by itself, for loops other than ours."""

SETTINGS = {"guidance_scale": "guidance", "temperature": "temperature", "top_k": "top_k"}
SETTINGS |= {"top_p": "top_p", "min_p": "min_p"}
"""Settings of ``generate`` and the options of a decoder that correspond to them."""

DEFAULTS = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}
"""What transformers takes for settings that neither its caller nor the model gives."""

UNKNOWN = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
"""Outputs other than tokens that ``generate`` may be asked for; a decoder does not keep them."""


def rows_of(name: str, ids: Tensor, mask: Tensor | None) -> list[list[int]]:
    """The tokens of each sequence of ``ids`` int64 [batch, length], without padding.

    Raises:
        ParameterError: if the mask has another shape, or hides all tokens of a sequence.
    """
    if mask is None:
        return ids.tolist()
    if mask.shape != ids.shape:
        allowed = f"must have the shape of the tokens, {tuple(ids.shape)}"
        raise ParameterError(f"attention mask of {name}", tuple(mask.shape), allowed)
    rows = [row[seen].tolist() for row, seen in zip(ids, mask.bool(), strict=True)]
    if not all(rows):
        allowed = "must hold a token that the attention mask does not hide"
        raise ParameterError(name, rows.index([]), allowed)
    return rows


def check_inputs(input_ids: Tensor, inputs: dict[str, Any]) -> None:
    """Raise :class:`ParameterError` for an input that a decoder does not read: it takes tokens.

    Args:
        input_ids: int64 [batch, length].
        inputs: what ``generate`` passes on beside it.
    """
    unread = {name: value for name, value in inputs.items() if name not in (*READ, *PREPARED)}
    cache = inputs.get("past_key_values")
    # What `generate` prepares is empty. A filled cache has tokens that we do not know, and encoded
    # inputs were other than tokens.
    if cache is not None and cache.get_seq_length() > 0:
        unread["past_key_values"] = cache
    for kind, encoded in (inputs.get("mm_encoder_outputs") or {}).items():
        unread["pixel_values" if kind == "image" else kind] = encoded
    for name, value in unread.items():
        if value is not None:
            allowed = "cannot be used: an image is decoded from the tokens of its prompt alone"
            raise ParameterError(name, type(value).__name__, allowed)
    mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
    if positions is not None:
        seen = torch.ones_like(input_ids) if mask is None else mask.long()
        own = (seen.cumsum(-1) - 1).clamp(min=0)
        if positions.shape != own.shape or not torch.equal(positions * seen, own * seen):
            allowed = "cannot be used: the tokens of a prompt are counted from 0"
            raise ParameterError("position_ids", positions.tolist(), allowed)


def check_kinds(name: str, values: list[Any], kinds: tuple[type, ...]) -> None:
    """Raise :class:`ParameterError` unless each of ``values`` is an instance of ``kinds``."""
    for value in values:
        if not isinstance(value, kinds):
            allowed = ", ".join(kind.__name__ for kind in kinds)
            raise ParameterError(name, type(value).__name__, f"must be one of {allowed}")


def check_outputs(generation: GenerationConfig) -> None:
    """Raise :class:`ParameterError` if outputs other than tokens, or another search, are wanted."""
    for name in UNKNOWN:
        if getattr(generation, name):
            raise ParameterError(name, True, "must be False: only tokens are returned")
    if (generation.num_beams or 1) > 1:
        raise ParameterError("num_beams", generation.num_beams, "must be 1")
    mode = generation.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise ParameterError("generation mode", mode.value, "must be greedy_search or sample")


def check_given_once(
    model: PreTrainedModel, generation: GenerationConfig, options: dict[str, Any]
) -> None:
    """Raise :class:`ParameterError` if ``generate`` was given another value of one of ``options``.

    A value that the model has by itself, or transformers by default, was not given.
    """
    for setting, name in SETTINGS.items():
        value, chosen = getattr(generation, setting), options.get(name)
        unset = (None, DEFAULTS.get(setting), getattr(model.generation_config, setting))
        if chosen is not None and value not in unset and value != chosen:
            allowed = f"is given twice, to pjd.decoding as {shown(chosen)}: give it once"
            raise ParameterError(setting, value, allowed)


def sampling_options(generation: GenerationConfig, vocabulary: int) -> dict[str, Any]:
    """The options of a decoder that correspond to the settings of transformers."""
    scale = generation.guidance_scale
    guidance = {} if scale is None else {"guidance": scale}
    if not generation.do_sample:
        return {**guidance, "temperature": 0.0}
    return {
        **guidance,
        "temperature": 1.0 if generation.temperature is None else generation.temperature,
        "top_k": min(generation.top_k or 0, vocabulary),
        "top_p": 1.0 if generation.top_p is None else generation.top_p,
        "min_p": generation.min_p or 0.0,
    }


def decoding(
    method: str = "pjd", *, seed: int | None = None, seeds: list[int] | None = None, **options: Any
) -> Callable[..., Tensor | GenerateDecoderOnlyOutput]:
    """A decoding loop for ``generate(custom_generate=...)`` of a transformers image model.

    The prompt must end with the token before the first code. As with any ``generate``, the result
    is the prompt and the image's tokens, row-end tokens included. ``max_new_tokens`` is ignored,
    since the format says how long an image is. The model's training mode, gradients and attention
    implementation are restored afterwards.

    Guidance, temperature, top-k, top-p, min-p and ``do_sample`` are those of ``generate``, unless
    given here; other values in both places are refused. So images are greedy without
    ``do_sample=True``, and with it they are drawn among the 50 likeliest tokens unless ``top_k`` is
    given (0: all).
    ``negative_prompt_ids`` is used too, beside a ``guidance_scale`` other than 1. Janus'
    ``generate`` does not pass on ``guidance_scale`` and ``logits_processor``: give ``guidance``
    here, or in the model's ``generation_config``.

    What a decoder cannot use is refused by name: inputs other than tokens (``pixel_values``), a
    filled cache, ``stopping_criteria``, ``output_scores`` and the like. Only what transformers does
    not pass on cannot be refused: ``assistant_model``, ``negative_prompt_ids`` without
    ``guidance_scale``, and ``streamer``, which gets the prompt and nothing more.

    Args:
        method: a key of :data:`pjd.decoder.methods.PRESETS`.
        seed: of the first image, None: 0; image i has ``seed + i``.
        seeds: a list of integers, one per image, in place of ``seed``.
        options: of :class:`pjd.decoder.config.DecodeConfig`, such as ``context=11``.

    Raises:
        ParameterError: at once, for an option that is not allowed; when generating, for a model or
            prompt that is not allowed, an input that is no token, a logits processor without a
            corresponding option, stopping criteria, or outputs other than tokens.
        LogitsError: when generating, if the model's logits are no finite numbers.
    """
    # Wrong options are refused now, before anything is generated; ``columns`` is none.
    check_options(options)
    first_seed = configure(method, seed=seed, **options).seed
    check_seeds(seeds, seed)

    @ordinary_state()
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
        check_inputs(input_ids, inputs)
        check_given_once(model, generation_config, options)
        conditional = rows_of("input_ids", input_ids, inputs.get("attention_mask"))
        negative = negative_prompts(logits_processor)
        if negative is not None and len(negative) != len(conditional):
            allowed = f"must be {len(conditional)} sequences, one per prompt"
            raise ParameterError("negative_prompt_ids", len(negative), allowed)
        numbers = seeds_of(seeds, first_seed, len(conditional))
        family = import_module(f"pjd.models.{kind}")
        with borrowed(model):
            wrapped = family.wrap(model, conditional, negative)
            given = {"guidance": wrapped.guidance, "seed": first_seed}
            given |= sampling_options(generation_config, wrapped.model.vocabulary)
            given |= {name: value for name, value in options.items() if value is not None}
            columns = wrapped.model.grid.columns
            config = configure(method, columns=columns, **given)
            check_fit(config, wrapped.model)
            tokens = decode_all(wrapped, config, numbers).to(input_ids.device)
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
    parameters = [
        (module, name, parameter, parameter.requires_grad)
        for module in training
        for name, parameter in module.named_parameters(recurse=False)
    ]
    parts = [module for module in training if isinstance(module, PreTrainedModel)]
    attention = [part.config._attn_implementation for part in parts]
    try:
        yield
    finally:
        for module, value in training.items():
            module.training = value
        for module, name, parameter, value in parameters:
            # A weight that accelerate brings from a disk is another object after a forward pass.
            setattr(module, name, parameter)
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
                ids, mask = negative["input_ids"], negative["attention_mask"]
                return rows_of("negative_prompt_ids", ids, mask)
    return None


def decode_all(wrapped: Wrapped, config: DecodeConfig, seeds: Tensor) -> Tensor:
    """Tokens int64 [batch, length] of the model's own vocabulary, row-end tokens included."""
    model = wrapped.model
    codes = Engine(model, config, wrapped.encode(config.guided), seeds).run().tokens
    return model.tokens[model.grid.with_row_ends(codes, model.vocabulary)]
