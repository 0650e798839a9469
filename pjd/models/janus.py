"""Janus-Pro (arXiv 2501.17811): image codes of their own behind a transformers Llama.

Codes are embedded by a table and an aligner, and predicted by a head, that text does not use.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import JanusConfig, JanusForConditionalGeneration, PreTrainedTokenizerFast

from pjd.decoder.grid import Grid
from pjd.errors import ParameterError
from pjd.models.checkpoint import cast, fit, read, require
from pjd.models.tokenizer import to_uint8
from pjd.models.transformers_decoder import DecoderModel, Wrapped, exact_rotary

SAMPLING: dict[str, float | int] = {"guidance": 5.0, "temperature": 1.0}
"""As in transformers' and the official generation."""

READER = ("model.vision_model.", "model.aligner.", "model.vqmodel.encoder.")
READER += ("model.vqmodel.quant_conv.", "lm_head.")
"""Parts that read images, or that write text."""


class ImageEmbedding(nn.Module):
    """Image codes to inputs of the transformer."""

    def __init__(self, table: nn.Module, aligner: nn.Module) -> None:
        """Put the table and the aligner one after the other."""
        super().__init__()
        self.table, self.aligner = table, aligner

    def forward(self, codes: Tensor) -> Tensor:
        """Map int64 [...] to [..., dim]."""
        return self.aligner(self.table(codes))


class Pixels(nn.Module):
    """Codes to images by the model's own VQ decoder."""

    def __init__(self, vq: nn.Module) -> None:
        """Hold the VQ model."""
        super().__init__()
        self.vq = vq

    def forward(self, codes: Tensor) -> Tensor:
        """Images uint8 [batch, height, width, 3] of codes int64 [batch, R, C]."""
        return to_uint8(self.vq.decode(codes.flatten(1)))


def assemble(
    name: str,
    language: JanusForConditionalGeneration,
    prompt: Callable[[str, bool], list[int]] | None,
) -> DecoderModel:
    """Make a model of transformers' own.

    Args:
        name: for labels.
        language: the whole model; what reads images is not used.
        prompt: see :class:`pjd.models.transformers_decoder.DecoderModel`.
    """
    inner = language.model
    inner.language_model.set_attn_implementation("sdpa")
    rows, columns = inner.vqmodel.quantize.quant_state_dims
    vectors = inner.vqmodel.quantize.embedding.weight.detach()
    return DecoderModel(
        name=name,
        backbone=inner.language_model,
        grid=Grid(rows, columns),
        tokens=torch.arange(len(vectors), device=vectors.device),
        head=inner.generation_head,
        prompt=prompt,
        pixels=Pixels(inner.vqmodel),
        codebook=F.normalize(vectors, dim=-1),
        sampling=SAMPLING,
        embedding=ImageEmbedding(inner.generation_embeddings, inner.generation_aligner),
    )


def unconditional(tokens: list[int], pad: int) -> list[int]:
    """The branch without a prompt: as long, and padding (which is attended to) in its place."""
    return [tokens[0], *[pad] * (len(tokens) - 2), tokens[-1]]


def wrap(
    language: JanusForConditionalGeneration,
    prompts: list[list[int]],
    negative: list[list[int]] | None,
) -> Wrapped:
    """A model around transformers' own, for prompts in tokens.

    Its ``generate`` withholds the caller's guidance from a decoding loop, as if for text: that of
    ``generation_config`` stands for it, else the model's default.

    Args:
        language: as ``from_pretrained`` gives it.
        prompts: their tokens; all end with the token that begins an image.
        negative: tokens of the branch without a prompt; None: Janus' own, padding in its place.

    Raises:
        ParameterError: if a prompt does not end with the token that begins an image.
    """
    settings = language.generation_config
    begin = (settings.generation_kwargs or {}).get("boi_token_id")
    for tokens in prompts:
        if tokens[-1] != begin:
            allowed = f"must end with {begin}, generation_config's boi_token_id"
            raise ParameterError("input_ids", tokens[-1], allowed)
    if negative is None:
        negative = [unconditional(tokens, settings.pad_token_id) for tokens in prompts]
    name = language.config.name_or_path or "janus"
    guidance = settings.guidance_scale or SAMPLING["guidance"]
    return Wrapped(assemble(name, language, None), prompts, negative, guidance=guidance)


def load_language(
    tensors: dict[str, Tensor], config: JanusConfig, source: str
) -> JanusForConditionalGeneration:
    """The parts of a checkpoint that write images, in the tensors' own dtypes and device.

    Args:
        tensors: by name; those that read images or write text are left out.
        config: of the checkpoint.
        source: what to call the checkpoint in an error.

    Raises:
        ValueError: naming every tensor that is missing, unexpected or of another shape.
    """
    with torch.device("meta"):
        language = JanusForConditionalGeneration(config)
    del language.lm_head, language.model.vision_model, language.model.aligner
    del language.model.vqmodel.encoder, language.model.vqmodel.quant_conv
    fit(language, {k: v for k, v in tensors.items() if not k.startswith(READER)}, source)
    exact_rotary(language.model.language_model)
    return language


def load(
    name: str,
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> DecoderModel:
    """Read an official checkpoint in the form of transformers.

    Args:
        name: for labels.
        folder: with ``config.json``, ``generation_config.json``, ``tokenizer.json`` and the
            safetensors.
        device: where the model goes.
        dtype: of the transformer; the image decoder is in single precision.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for a damaged file, or a tensor that is missing, unexpected or of another
            shape.
    """
    require(name, folder, "config.json", "generation_config.json", "tokenizer.json")
    config = JanusConfig.from_json_file(folder / "config.json")
    settings = json.loads((folder / "generation_config.json").read_text())
    try:
        begin, pad = settings["bos_token_id"], settings["pad_token_id"]
        image = settings["generation_kwargs"]["boi_token_id"]
    except KeyError as error:
        where = folder / "generation_config.json"
        raise ValueError(f"model {name}: {where} has no {error.args[0]}") from error
    tensors = cast(read(folder, device), dtype, exact="model.vqmodel.")
    language = load_language(tensors, config, str(folder))
    words = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))

    def prompt(text: str, conditional: bool) -> list[int]:
        """Tokens in front of the first image code: the conversation's format around the text."""
        asked = f"<|User|>: {text}\n\n<|Assistant|>:"
        tokens = [begin, *words(asked, add_special_tokens=False)["input_ids"], image]
        return tokens if conditional else unconditional(tokens, pad)

    return assemble(name, language, prompt)
