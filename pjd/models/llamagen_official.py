"""LlamaGen (arXiv 2406.06525) from official checkpoints: images of a class, or of a caption."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from pjd.decoder.model import Prompt
from pjd.errors import ParameterError
from pjd.models.catalogue import (
    FILES,
    LLAMAGEN_CAPTION_SAMPLING,
    LLAMAGEN_CLASS_SAMPLING,
    matching,
)
from pjd.models.checkpoint import damaged, fit, read
from pjd.models.clean_caption import clean
from pjd.models.files import check_file
from pjd.models.llamagen import LlamaGen, LlamaGenConfig, LlamaGenModel, rotary_table
from pjd.models.llamagen_vq import MULTIPLIERS, UNUSED, LlamaGenVQ

CLASSES = 1000
"""Classes of ImageNet; one class more stands for no class."""

CAPTION, FEATURES = 120, 2048
"""Positions of a caption, and features per position, as flan-t5-xl computes them."""

REDUCTION = 16
"""Pixels per side of a code of all official checkpoints, which VQ-16 decodes."""

Encoder = Callable[[list[str]], tuple[Tensor, Tensor]]
"""From captions to features [batch, 120, 2048] and their mask bool [batch, 120], right-aligned."""


@dataclass(frozen=True)
class Format:
    """One official checkpoint.

    Attributes:
        dim: width of the residual stream.
        layers: transformer blocks.
        heads: attention heads.
        grid: rows and columns of codes.
        captioned: whether it is conditioned on a caption, and not on a class.
    """

    dim: int
    layers: int
    heads: int
    grid: int
    captioned: bool = False

    @property
    def config(self) -> LlamaGenConfig:
        """Sizes of the transformer."""
        prefix, width = (CAPTION, FEATURES) if self.captioned else (1, self.dim)
        return LlamaGenConfig(
            self.dim, self.layers, self.heads, 16_384, self.grid, prefix, width, "zero", 0.0
        )

    @property
    def sampling(self) -> dict[str, float | int]:
        """The model's own defaults."""
        return LLAMAGEN_CAPTION_SAMPLING if self.captioned else LLAMAGEN_CLASS_SAMPLING


FORMATS = {
    "llamagen-c2i-b-256": Format(768, 12, 12, 16),
    "llamagen-c2i-b-384": Format(768, 12, 12, 24),
    "llamagen-c2i-l-256": Format(1024, 24, 16, 16),
    "llamagen-c2i-l-384": Format(1024, 24, 16, 24),
    "llamagen-c2i-xl-384": Format(1280, 36, 20, 24),
    "llamagen-c2i-xxl-384": Format(1536, 48, 24, 24),
    "llamagen-c2i-3b-384": Format(3200, 24, 32, 24),
    "llamagen-t2i-xl-256": Format(1280, 36, 20, 16, captioned=True),
    "llamagen-t2i-xl-512": Format(1280, 36, 20, 32, captioned=True),
}
"""Formats by the name of the model."""


class ClassEmbedder(nn.Module):
    """Classes to prefix embeddings; one class more is the unconditional one.

    Args:
        dim: width of the residual stream.
        classes: number of classes.
    """

    def __init__(self, dim: int, classes: int = CLASSES) -> None:
        """Make the table."""
        super().__init__()
        self.classes = classes
        self.embedding_table = nn.Embedding(classes + 1, dim)

    def forward(self, labels: Tensor, unconditional: Tensor) -> Tensor:
        """Embed ``labels`` int64 [batch], or no class where ``unconditional``: [batch, 1, dim]."""
        return self.embedding_table(torch.where(unconditional, self.classes, labels))[:, None]


class OfficialLlamaGen(LlamaGenModel):
    """A LlamaGen transformer and its VQ decoder; see :class:`pjd.decoder.model.ImageModel`.

    Args:
        name: for labels.
        transformer: its ``cls_embedding`` takes the features of captions, or classes.
        pixels: from codes int64 [batch, R, C] to images uint8 [batch, height, width, 3].
        sampling: the model's own defaults.
        captions: encodes captions; None: prompts are numbers of classes.
    """

    def __init__(
        self,
        name: str,
        transformer: LlamaGen,
        pixels: LlamaGenVQ,
        sampling: dict[str, float | int],
        captions: Encoder | None = None,
    ) -> None:
        """Put the parts together, in evaluation mode."""
        super().__init__(name, transformer, sampling)
        self.pixels = pixels.eval().requires_grad_(False)
        self.captions = captions
        self.codebook = pixels.codebook

    def condition(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """The input of ``cls_embedding`` for the prompts, and its mask bool [batch, prefix].

        Raises:
            ParameterError: if the model was trained on classes and a prompt is none.
        """
        if self.captions is not None:
            features, mask = self.captions(prompts)
            return features.to(self.device, self.dtype), mask.to(self.device)
        classes = cast(ClassEmbedder, self.transformer.cls_embedding).classes
        for prompt in prompts:
            if not (prompt.strip().isdecimal() and int(prompt) < classes):
                allowed = f"must be the number of an ImageNet class, 0 to {classes - 1}"
                raise ParameterError("prompt", prompt, f"{allowed}: {self.name} takes no captions")
        labels = torch.tensor([int(prompt) for prompt in prompts], device=self.device)
        return labels, torch.ones(len(prompts), 1, dtype=torch.bool, device=self.device)

    def to(self, device: torch.device | str) -> "OfficialLlamaGen":
        """Move the model, its text encoder too if that is a module; returns itself."""
        for part in (self.transformer, self.pixels, self.captions):
            if isinstance(part, nn.Module):
                part.to(device)
        self.codebook = self.codebook.to(device)
        return self

    def encode(self, prompts: list[str], guided: bool) -> Prompt:
        """Embed the prompts and, if ``guided``, as many unconditional ones."""
        return self.prefix(*self.condition(prompts), guided)

    def decode(self, tokens: Tensor) -> Tensor:
        """Pixels of the codes, image by image: a large image's activations take gigabytes."""
        codes = tokens.unflatten(1, (self.grid.rows, self.grid.columns))
        return torch.cat([self.pixels(image) for image in codes.split(1)])


def load_transformer(
    tensors: dict[str, Tensor], config: LlamaGenConfig, captioned: bool, source: str
) -> LlamaGen:
    """The transformer of a checkpoint, in the tensors' own dtype and device.

    Args:
        tensors: by their official names.
        config: sizes.
        captioned: whether it is conditioned on captions, and not on classes.
        source: how an error names the checkpoint.

    Raises:
        ValueError: naming every tensor that is missing, unexpected or of another shape; or if the
            rotary table, which older files have, is that of another grid.
    """
    rotary = rotary_table(config)
    found = tensors.get("freqs_cis", rotary).shape
    if found != rotary.shape:
        grid = f"a grid of {config.grid}x{config.grid} codes"
        raise ValueError(f"{source}: freqs_cis is {[*found]}, not {[*rotary.shape]} of {grid}")
    with torch.device("meta"):
        transformer = LlamaGen(config)
        if not captioned:
            transformer.cls_embedding = ClassEmbedder(config.dim)
    # Older files have the rotary table, which we compute.
    fit(transformer, {k: v for k, v in tensors.items() if k != "freqs_cis"}, source)
    # In single precision, whatever the dtype of the weights.
    transformer.rotary = rotary.to(transformer.output.weight.device)
    return transformer


def load_vq(tensors: dict[str, Tensor], source: str) -> LlamaGenVQ:
    """The image decoder of a checkpoint: VQ-16 or VQ-8, told by its number of resolutions.

    Args:
        tensors: by their official names.
        source: how an error names the checkpoint.

    Raises:
        ValueError: naming every tensor that is missing, unexpected or of another shape.
    """
    needed = {name: t.float() for name, t in tensors.items() if not name.startswith(UNUSED)}
    levels = {name.split(".")[2] for name in needed if name.startswith("decoder.conv_blocks.")}
    if len(levels) not in MULTIPLIERS:
        counts = " or ".join(map(str, MULTIPLIERS))
        raise ValueError(f"{source} has {len(levels)} decoder.conv_blocks, not {counts}")
    with torch.device("meta"):
        vq = LlamaGenVQ(len(levels))
    fit(vq, needed, source)
    return vq


class TextEncoder(nn.Module):
    """Captions to features by a T5; an :data:`Encoder`.

    It cleans captions as the official code does, see :func:`pjd.models.clean_caption.clean`.

    Args:
        words: the tokenizer.
        encoder: of transformers.
    """

    def __init__(self, words: Any, encoder: Any) -> None:
        """Hold both, in evaluation mode."""
        super().__init__()
        self.words, self.encoder = words, encoder.eval()

    @torch.no_grad()
    def forward(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Features of captions and their mask, right-aligned."""
        found = self.words(
            [clean(caption) for caption in captions],
            max_length=CAPTION,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).to(self.encoder.device)
        features = self.encoder(found.input_ids, attention_mask=found.attention_mask)
        return align(features.last_hidden_state, found.attention_mask.bool())


def t5(folder: Path, device: torch.device | str, dtype: torch.dtype) -> TextEncoder:
    """The text encoder flan-t5-xl.

    Args:
        folder: of the encoder, with its tokenizer.
        device: where it goes.
        dtype: of its arithmetic.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: for a damaged file; or naming every tensor that is missing or of another shape.
    """
    from transformers import AutoTokenizer, T5EncoderModel

    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: captions need google/flan-t5-xl")
    for names in FILES["flan-t5-xl"]:
        for file in matching(folder, names):
            check_file(file)
    local = {"local_files_only": True, "trust_remote_code": False}
    # transformers only warns of weights that do not fit, and makes them random: we refuse them.
    strict = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    with damaged(folder, "is no text encoder"):
        words = AutoTokenizer.from_pretrained(folder, **local)
        encoder, report = T5EncoderModel.from_pretrained(folder, dtype=dtype, **local, **strict)
    wrong = [f"missing {name}" for name in sorted(report["missing_keys"])]
    wrong += [
        f"{name} is {list(shape)}, not {list(expected)}"
        for name, shape, expected in sorted(report["mismatched_keys"])
    ]
    if wrong:
        raise ValueError(f"{folder} does not fit T5EncoderModel: {'; '.join(wrong)}")
    return TextEncoder(words, encoder.to(device))


def align(features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Right-align ``features`` [batch, length, width] by their ``mask``; the rest becomes 0."""
    order = mask.to(torch.int8).argsort(dim=1, stable=True)
    mask = mask.gather(1, order)
    moved = features.gather(1, order[..., None].expand_as(features))
    return moved * mask[..., None], mask


def check_names(name: str, weights: Path, vq: Path) -> None:
    """Compare official file names with the model, which tensors do not always tell.

    Args:
        name: of the model.
        weights: the transformer's file, such as ``c2i_B_256.pt``.
        vq: the VQ tokenizer's file, such as ``vq_ds16_c2i.pt``.

    Raises:
        ValueError: naming the model that a file is of.
    """
    told = re.fullmatch(r"([ct]2i)_([A-Z0-9]+)_(?:stage\d_)?(\d+)", weights.stem)
    if told and (model := "llamagen-" + "-".join(told.groups()).lower()) != name:
        raise ValueError(
            f"model {name}: {weights} is of {model}: put it into a folder of that name"
        )
    told = re.fullmatch(r"vq_ds\d+_([ct]2i)", vq.stem)
    if told and told[1] not in name:
        raise ValueError(f"model {name}: {vq} is of models whose names have {told[1]}")


def load(
    name: str,
    folder: Path,
    vq: Path | None = None,
    text: Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> OfficialLlamaGen:
    """Read an official checkpoint.

    Args:
        name: a key of :data:`FORMATS`.
        folder: with one file of the transformer under its official name, ``.pt`` or converted to
            safetensors (if it has both, the latter is read), and that of the VQ tokenizer if
            ``vq`` is None.
        vq: the VQ tokenizer's file; None: the one in ``folder`` that begins with "vq".
        text: folder of flan-t5-xl, for a model that takes captions.
        device: where the model goes.
        dtype: of the transformer and the text encoder; the image decoder is in single precision.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for an unknown name, a damaged file, a file of another model, or a tensor that
            is missing, unexpected or of another shape.
    """
    if name not in FORMATS:
        raise ValueError(f"model = {name!r}: must be one of {', '.join(FORMATS)}")
    image_format = FORMATS[name]
    vq_file = vq or next(iter(matching(folder, "vq*.safetensors or vq*.pt")), folder / "vq.pt")
    weights = matching(folder, FILES["llamagen_official"][0])
    if len(weights) != 1:
        found = ", ".join(file.name for file in weights) or "none"
        raise FileNotFoundError(
            f"model {name}: {folder} must hold one file of weights; found {found}"
        )
    check_names(name, weights[0], vq_file)
    decoder = load_vq(read(vq_file, device), str(vq_file))
    if decoder.reduction != REDUCTION:
        pixels = f"{decoder.reduction} pixels per side of a code, {name} has {REDUCTION}"
        raise ValueError(f"model {name}: {vq_file} has {pixels}")
    captions = None
    if image_format.captioned:
        captions = t5(text or folder / "flan-t5-xl", device, dtype)
    tensors = {key: value.to(dtype) for key, value in read(weights[0], device).items()}
    config, captioned = image_format.config, image_format.captioned
    transformer = load_transformer(tensors, config, captioned, str(weights[0]))
    return OfficialLlamaGen(name, transformer, decoder, image_format.sampling, captions)
