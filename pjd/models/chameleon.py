"""Lumina-mGPT (arXiv 2408.02657) and Anole (arXiv 2407.06135): text and image tokens in one model.

Both are a Chameleon (arXiv 2405.09818) and differ in how they write an image: which tokens stand
before it, and whether its size and the ends of its rows are tokens. A :class:`Format` says so by
names of tokens; their ids, and which token stands for which code, come from the checkpoint.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ChameleonConfig, ChameleonForConditionalGeneration

from pjd.decoder.grid import Grid
from pjd.errors import ParameterError, check_integer
from pjd.models.catalogue import ANOLE_SAMPLING, LUMINA_SAMPLING
from pjd.models.chameleon_vq import UNUSED, ChameleonVQ
from pjd.models.checkpoint import fit, read, require
from pjd.models.dispatched import parameters_of
from pjd.models.transformers_checkpoint import (
    exact_rotary,
    load_language,
    read_config,
    read_tokenizer,
)
from pjd.models.transformers_decoder import DecoderModel, Wrapped, code_head

BEGIN = "<s>"
SEPARATOR = "<reserved08706>"
IMAGE = "<racm3:break>"
"""Names of tokens in every Chameleon: they begin a text, end a prompt, and begin an image."""

VQ = "model.vqmodel."
"""Names of the VQGAN's parameters in a checkpoint begin with this."""

NOT_IN_TRANSFORMERS = ("decoder.", "loss.")
"""Names of the VQGAN's parameters that transformers has no place for begin with these."""

TOKENIZER = "tokenizer.json"

UNIT, LARGEST = 32, 199
"""Pixels that a token of Lumina-mGPT for a height or width counts by, and the most that one says:
their names have three digits, from ``<reserved08801>`` on."""


@dataclass(frozen=True)
class Format:
    """How a model of the Chameleon family writes an image.

    Args:
        width: pixels.
        height: pixels.
        instruction: the text, with ``{prompt}`` in it; :data:`BEGIN` comes before it.
        start: names of the tokens between the text and the first code.
        unconditional: names of the tokens before the first code where there is no prompt.
        row_end: name of the token after every row of codes, or None.
        sampling: defaults for options of :class:`pjd.decoder.config.DecodeConfig`.
    """

    width: int
    height: int
    instruction: str
    start: tuple[str, ...]
    unconditional: tuple[str, ...]
    row_end: str | None
    sampling: dict[str, float | int]


def lumina(width: int, height: int) -> Format:
    """Lumina-mGPT's format: the height and the width are tokens, in units of 32 pixels.

    The model would write the start of the image and its size itself; here these three tokens are
    part of the prompt. The unconditional prompt consists of them only, at positions 0 to 2.

    Raises:
        ParameterError: for a size that no token says.
    """
    for side, pixels in (("width", width), ("height", height)):
        check_integer(side, pixels, UNIT, UNIT * LARGEST)
        if pixels % UNIT:
            allowed = f"must be a multiple of {UNIT}, such as {pixels // UNIT * UNIT}"
            raise ParameterError(side, pixels, allowed)
    size = (IMAGE, *(f"<reserved{8800 + pixels // UNIT:05d}>" for pixels in (height, width)))
    request = f"Generate an image of {width}x{height} according to the following prompt:\n"
    return Format(
        width=width,
        height=height,
        instruction=request + "{prompt}",
        start=(SEPARATOR, *size),
        unconditional=size,
        row_end="<reserved08799>",
        sampling=LUMINA_SAMPLING,
    )


def anole() -> Format:
    """Anole's format: always 512x512 pixels, without row-end tokens."""
    return Format(
        width=512,
        height=512,
        instruction="Generate an image of {prompt}",
        start=(SEPARATOR, IMAGE),
        unconditional=(BEGIN, IMAGE),
        row_end=None,
        sampling=ANOLE_SAMPLING,
    )


FORMATS: dict[str, Format] = {
    "lumina-mgpt-7b-512": lumina(512, 512),
    "lumina-mgpt-7b-768": lumina(768, 768),
    "lumina-mgpt-7b-1024": lumina(1024, 1024),
    "anole-7b": anole(),
}
"""Formats by the name of the model."""


def image_tokens(language: ChameleonForConditionalGeneration, codes: int) -> Tensor:
    """The token of each code, int64 [codes]; tokens are in another order than codes.

    Raises:
        ValueError: if the configuration's ``vocabulary_map`` does not name one token per code.
    """
    tokens = language.model.vocabulary_mapping.img2bpe
    if sorted(tokens) != list(range(codes)):
        raise ValueError(f"vocabulary_map has {len(tokens)} image tokens, the VQGAN {codes} codes")
    return torch.tensor([tokens[code] for code in range(codes)])


def assemble(
    name: str,
    language: ChameleonForConditionalGeneration,
    vq: ChameleonVQ,
    text_tokens: Callable[[str], list[int]],
    image_format: Format,
) -> DecoderModel:
    """Make a model from its parts.

    Args:
        name: for labels.
        language: the transformer; its configuration has a ``vocabulary_map``.
        vq: the image decoder.
        text_tokens: from a text to its tokens, without special tokens at either end.
        image_format: how the model writes an image.

    Raises:
        ValueError: if the vocabulary lacks a token that the format needs.
    """
    vocabulary = language.config.vocabulary_map
    check_vocabulary(name, vocabulary, image_format)
    begin = vocabulary[BEGIN]
    start = [vocabulary[token] for token in image_format.start]
    unconditional = [vocabulary[token] for token in image_format.unconditional]

    def prompt(text: str, conditional: bool) -> list[int]:
        """Tokens before the first code."""
        if not conditional:
            return unconditional
        return [begin, *text_tokens(image_format.instruction.format(prompt=text)), *start]

    return connect(name, language, vq, prompt, image_format)


def wrap(
    language: ChameleonForConditionalGeneration,
    prompts: list[list[int]],
    negative: list[list[int]] | None,
) -> Wrapped:
    """Wrap a transformers model. Prompts are tokens, and their last tokens tell the format.

    Args:
        language: as ``from_pretrained`` returns it.
        prompts: the tokens of each; all end with the same size of an image, or with none.
        negative: the tokens of each unconditional prompt; None: only the last tokens of each
            prompt, which begin an image and give its size. In a format without a size that is
            one token, as in transformers.

    Returns:
        The model; it cannot decode pixels.

    Raises:
        ParameterError: if the prompts do not end with the beginning of an image, or differ in it.
    """
    names = {token: name for name, token in language.config.vocabulary_map.items()}
    ends = {tuple(names.get(token, "") for token in tokens[-3:]) for tokens in prompts}
    end = ends.pop()
    size = [re.fullmatch(r"<reserved08(\d{3})>", name) for name in end[1:]]
    if end[-1:] == (IMAGE,) and all(other[-1:] == (IMAGE,) for other in ends):
        image_format = anole()
    elif end[:1] == (IMAGE,) and all(size) and not ends:
        height, width = (UNIT * (int(name[1]) - 800) for name in size if name)
        image_format = lumina(width, height)
    else:
        allowed = f"must all end with {IMAGE}, or with it and the same height and width"
        raise ParameterError("input_ids", " ".join(end), allowed)
    check_vocabulary("input_ids", language.config.vocabulary_map, image_format)
    name = language.config.name_or_path or "chameleon"
    opening = len(image_format.start) - image_format.start.index(IMAGE)
    model = connect(name, language, language.model.vqmodel, None, image_format)
    return Wrapped(model, prompts, negative or [tokens[-opening:] for tokens in prompts])


def check_vocabulary(name: str, vocabulary: dict[str, int], image_format: Format) -> None:
    """Raise ValueError if ``vocabulary`` lacks a token that the format needs."""
    row_end = () if image_format.row_end is None else (image_format.row_end,)
    needed = {BEGIN, *image_format.start, *image_format.unconditional, *row_end}
    missing = sorted(needed - vocabulary.keys())
    if missing:
        raise ValueError(f"{name}: vocabulary_map has no {', '.join(missing)}")


def connect(
    name: str,
    language: ChameleonForConditionalGeneration,
    vq: Any,
    prompt: Callable[[str, bool], list[int]] | None,
    image_format: Format,
) -> DecoderModel:
    """A decoder model from a transformer, a VQGAN, a format and a function that writes prompts.

    Raises:
        ParameterError: if the format's size is not one of whole codes.
    """
    vocabulary = language.config.vocabulary_map
    reduction = 2 ** (len(language.config.vq_config.channel_multiplier) - 1)
    for side, pixels in (("width", image_format.width), ("height", image_format.height)):
        if pixels < 1 or pixels % reduction:
            allowed = f"must be a multiple of {reduction}, the pixels per side of one code"
            raise ParameterError(side, pixels, allowed)
    vectors = parameters_of(vq.quantize.embedding)["weight"]
    tokens = image_tokens(language, len(vectors))
    return DecoderModel(
        name=name,
        # Its own forward method forbids image tokens, so we call its backbone and head instead.
        backbone=language.model,
        grid=Grid(
            rows=image_format.height // reduction,
            columns=image_format.width // reduction,
            row_end=vocabulary[image_format.row_end] if image_format.row_end is not None else None,
        ),
        tokens=tokens,
        head=code_head(language.lm_head, tokens),
        prompt=prompt,
        pixels=vq,
        codebook=F.normalize(vectors, dim=-1),
        sampling=image_format.sampling,
    )


def expand_norms(tensors: dict[str, Tensor], config: ChameleonConfig) -> dict[str, Tensor]:
    """Give every head its own query and key normalisation, as in transformers.

    Lumina-mGPT was trained with its weights split into parts, and stores one normalisation per
    part, [parts, head_dim] instead of [heads, head_dim]; the heads of a part share it.

    Args:
        tensors: of a checkpoint, by name.
        config: gives the numbers of heads.
    """
    heads = {"q_norm": config.num_attention_heads, "k_norm": config.num_key_value_heads}
    expanded = dict(tensors)
    for name, tensor in tensors.items():
        count = next((heads[part] for part in name.split(".") if part in heads), None)
        if count is not None and tensor.ndim == 2 and tensor.shape[0] in range(1, count):
            # If it does not divide evenly, it stays as it is and is refused later for its shape.
            repeats = count // tensor.shape[0] if count % tensor.shape[0] == 0 else 1
            expanded[name] = tensor.repeat_interleave(repeats, dim=0)
    return expanded


def read_chameleon_config(folder: Path) -> ChameleonConfig:
    """The configuration of a checkpoint.

    Raises:
        ValueError: if it is damaged, or has no vocabulary.
    """
    config = read_config(ChameleonConfig, folder / "config.json")
    if config.vocabulary_map is None:
        raise ValueError(f"{folder / 'config.json'} has no vocabulary_map")
    return config


def read_vq(path: Path) -> dict[str, Tensor]:
    """Tensors of a VQGAN, by the names of the original.

    Args:
        path: the original VQGAN's file, or a checkpoint that contains the VQGAN, or a shard of one.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it is damaged, or if a checkpoint contains no VQGAN.
    """
    found = read(path, prefix=VQ if path.is_dir() else "")
    if not found:
        raise ValueError(f"{path} has no image decoder: say where it is, as vq")
    contained = {name.removeprefix(VQ): t for name, t in found.items() if name.startswith(VQ)}
    return contained or found


def load_vq(path: Path, config: ChameleonConfig) -> ChameleonVQ:
    """The image decoder of a checkpoint, in single precision.

    Args:
        path: see :func:`read_vq`.
        config: gives the sizes.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: naming every tensor that is missing, unexpected or of another shape; or for a
            file that is damaged or has no VQGAN.
    """
    tensors = read_vq(path).items()
    with torch.device("meta"):
        vq = ChameleonVQ(config.vq_config)
    fit(vq, {name: t.float() for name, t in tensors if not name.startswith(UNUSED)}, str(path))
    return vq


def convert(folder: Path, target: Path, vq: Path | None = None) -> None:
    """Write a checkpoint of Lumina-mGPT so that transformers' ``from_pretrained`` reads it.

    Every head gets its own query and key normalisation. The part of the VQGAN that transformers
    has, which contains the codebook, is added.

    Args:
        folder: with ``config.json`` and safetensors.
        target: the new folder to write; it takes about as much space.
        vq: where the VQGAN's weights are, if not in ``folder``; see :func:`read_vq`.

    Raises:
        ParameterError: if ``target`` exists.
        FileNotFoundError: if a file is missing.
        ValueError: for a damaged file, or a tensor that is missing, unexpected or of another
            shape.
    """
    if target.exists():
        raise ParameterError("target", str(target), "must be a new folder")
    require(folder.name, folder, "config.json")
    config = read_chameleon_config(folder)
    with torch.device("meta"):
        language = ChameleonForConditionalGeneration(config)
    tensors = {name: t for name, t in read(folder).items() if not name.startswith(VQ)}
    for name, tensor in read_vq(vq or folder).items():
        if not name.startswith(NOT_IN_TRANSFORMERS):
            tensors[VQ + name] = tensor
    fit(language, expand_norms(tensors, config), str(folder))
    language.save_pretrained(target)


def load(
    name: str,
    folder: Path,
    vq: Path | None = None,
    tokenizer: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> DecoderModel:
    """Read an official checkpoint.

    Args:
        name: a key of :data:`FORMATS`.
        folder: with ``config.json`` and safetensors.
        vq: where the VQGAN's weights are, if not in ``folder``; see :func:`read_vq`.
        tokenizer: path of ``tokenizer.json``; None: the one in ``folder``, else the one in the
            folder of Lumina-mGPT 768 beside it, since all models of the family share it.
        device: where the model goes.
        dtype: of the transformer; the image decoder is in single precision.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for an unknown name, a damaged file, a tensor that is missing, unexpected or
            of another shape, or a token that the vocabulary lacks.
    """
    if name not in FORMATS:
        raise ValueError(f"model = {name!r}: must be one of {', '.join(FORMATS)}")
    require(name, folder, "config.json")
    if tokenizer is None:
        own, shared = folder / TOKENIZER, folder.parent / "lumina-mgpt-7b-768" / TOKENIZER
        tokenizer = shared if shared.exists() and not own.exists() else own
    require(name, tokenizer.parent, tokenizer.name)
    config = read_chameleon_config(folder)
    text_tokens = read_tokenizer(tokenizer)
    decoder = load_vq(vq or folder, config)
    tensors = {key: value.to(dtype) for key, value in read(folder, device).items()}
    tensors = expand_norms(tensors, config)
    architecture = ChameleonForConditionalGeneration
    language = load_language(architecture, config, tensors, (VQ,), str(folder))
    exact_rotary(language.model)
    return assemble(name, language, decoder, text_tokens, FORMATS[name])
