"""The embedded models: a LlamaGen transformer on emoji, with captions as words."""

import json
import re
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pjd.decoder.model import Prompt
from pjd.models.captions import Words
from pjd.models.llamagen import LlamaGen, LlamaGenConfig, LlamaGenModel
from pjd.models.tokenizer import Tokenizer


class EmojiModel(LlamaGenModel):
    """A LlamaGen transformer with a word vocabulary and a VQ tokenizer; see ``ImageModel``."""

    def __init__(
        self,
        name: str,
        transformer: LlamaGen,
        word_vectors: nn.Embedding,
        tokenizer: Tokenizer,
        words: Words,
        sampling: dict[str, float | int],
    ) -> None:
        """Put the parts together, in evaluation mode."""
        super().__init__(name, transformer, sampling)
        self.word_vectors = word_vectors.requires_grad_(False)
        self.tokenizer = tokenizer.eval().requires_grad_(False)
        self.words = words

    @property
    def codebook(self) -> Tensor:
        """Unit vectors of the codes, [vocabulary, width]."""
        return self.tokenizer.codebook.weight

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "EmojiModel":
        """Move the model, and optionally change the transformer's dtype; returns itself."""
        self.transformer.to(device, dtype)
        self.word_vectors.to(device, dtype)
        self.tokenizer.to(device)
        return self

    def encode(self, prompts: list[str], guided: bool) -> Prompt:
        """Embed the captions and, if ``guided``, as many unconditional ones.

        Warns about words that the vocabulary lacks, and captions that are too long for the prefix.
        """
        for prompt in prompts:
            unknown = self.words.unknown_words(prompt)
            if unknown:
                warnings.warn(
                    f"{prompt!r}: {self.name} knows no {', '.join(unknown)}", stacklevel=2
                )
            if len(self.words.split(prompt)) > self.words.length:
                advice = f"only its last {self.words.length} words are used"
                warnings.warn(f"{prompt[:60]!r}...: {advice}", stacklevel=2)
        ids = self.words.encode(prompts).to(self.device)
        return self.prefix(self.word_vectors(ids), ids > 0, guided)

    def decode(self, tokens: Tensor) -> Tensor:
        """Pixels of the codes."""
        return self.tokenizer.decode(tokens.unflatten(1, (self.grid.rows, self.grid.columns)))


def save(model: EmojiModel, folder: Path) -> None:
    """Write ``model.json`` and ``model.safetensors`` (transformer and words in bfloat16)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        **{f"transformer.{k}": v.bfloat16() for k, v in model.transformer.state_dict().items()},
        "word_vectors.weight": model.word_vectors.weight.bfloat16(),
        **{f"tokenizer.{k}": v for k, v in tokenizer_state(model.tokenizer).items()},
    }
    tensors = {name: value.contiguous().cpu() for name, value in tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)
    description = {
        "transformer": asdict(model.transformer.config),
        "sampling": model.sampling,
        "shuffle": model.tokenizer.shuffle,
        "words": model.words.vocabulary,
    }
    (folder / "model.json").write_text(json.dumps(description, indent=1) + "\n")


class TrainingRecord(NamedTuple):
    """What a model was trained on.

    Attributes:
        images: composed for its training, with those for the weights that it started from.
        nats: per token of held-out images, without guidance, by split.
    """

    images: int
    nats: dict[str, float]


def training_record(folder: Path) -> TrainingRecord:
    """Read the ``quality.json`` of a model's folder."""
    quality = json.loads((folder / "quality.json").read_text())
    images, before = 0, quality
    while before:
        images += before["images_seen"]
        before = before.get("before")
    return TrainingRecord(images, quality["nats"])


def tokenizer_state(tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Weights of the tokenizer, in half precision except for its codebook."""
    return {
        name: value if name == "codebook.weight" else value.half()
        for name, value in tokenizer.state_dict().items()
    }


def check_grid(name: str, grid: int, description: Path) -> None:
    """Compare the grid of a model with its name, where that tells the size of its pictures.

    No tensor tells it: the positions are computed.

    Raises:
        ValueError: naming both.
    """
    size = re.match(r"emoji-(\d+)", name)
    if size is not None and int(size[1]) != grid * Tokenizer.reduction:
        raise ValueError(
            f"model {name}: {description} says grid {grid}, which makes pictures of "
            f"{grid * Tokenizer.reduction} pixels; by its name they have {size[1]}"
        )


def load(name: str, folder: Path) -> EmojiModel:
    """Read a model that :func:`save` wrote.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the weights are damaged, or do not fit the architecture.
    """
    weights, description = folder / "model.safetensors", folder / "model.json"
    for path in (description, weights):
        if not path.exists():
            raise FileNotFoundError(f"model {name}: no file {path}: run `dvc pull`")
    described = json.loads(description.read_text())
    check_grid(name, described["transformer"]["grid"], description)
    try:
        tensors = load_file(weights)
    except Exception as error:
        raise ValueError(f"model {name}: {weights} is damaged ({error}): run `dvc pull`") from error
    config = LlamaGenConfig(**described["transformer"])
    words = Words(described["words"], config.prefix)
    transformer = LlamaGen(config)
    vectors = nn.Embedding(len(words), config.caption_dim)
    tokenizer = Tokenizer(config.vocabulary, shuffle=described.get("shuffle"))
    parts = {"transformer": transformer, "word_vectors": vectors, "tokenizer": tokenizer}
    try:
        nn.ModuleDict(parts).load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"model {name}: {weights} does not fit: {error}") from error
    return EmojiModel(name, transformer, vectors, tokenizer, words, described["sampling"])
