"""From the files of a transformers checkpoint: its configuration, its tokenizer, its decoder."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from pjd.models.checkpoint import damaged, fit
from pjd.models.files import check_file

Language = TypeVar("Language", bound=PreTrainedModel)
Config = TypeVar("Config", bound=PretrainedConfig)


def read_config(kind: type[Config], path: Path) -> Config:
    """The configuration of a checkpoint, from its ``config.json``.

    Raises:
        ValueError: naming the file, if it is damaged or is not of this kind.
    """
    check_file(path)
    with damaged(path, f"is no {kind.__name__}"):
        return kind.from_json_file(path)


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a ``tokenizer.json``.

    Raises:
        ValueError: naming the file, if it is damaged.
    """
    check_file(path)
    with damaged(path, "is no tokenizer"):
        return PreTrainedTokenizerFast(tokenizer_file=str(path))


def read_tokenizer(path: Path) -> Callable[[str], list[int]]:
    """From texts to their tokens, without special tokens at either end, by a ``tokenizer.json``.

    Raises:
        ValueError: naming the file, if it is damaged.
    """
    words = load_tokenizer(path)
    return lambda text: words(text, add_special_tokens=False)["input_ids"]


def read_vocabulary(path: Path, names: tuple[str, ...]) -> tuple[Callable[[str], list[int]], int]:
    """A tokenizer, see :func:`read_tokenizer`, and its length, where the codes' tokens begin.

    Args:
        path: of its ``tokenizer.json``.
        names: of the tokens that a prompt needs.

    Raises:
        ValueError: naming the file, if it is damaged, or if a text of one of ``names`` is not the
            token of that name.
    """
    words = load_tokenizer(path)
    vocabulary = words.get_vocab()

    def text_tokens(text: str) -> list[int]:
        return words(text, add_special_tokens=False)["input_ids"]

    missing = [name for name in names if text_tokens(name) != [vocabulary.get(name)]]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}")
    return text_tokens, len(words)


def exact_rotary(backbone: PreTrainedModel) -> None:
    """Compute the frequencies of the rotary positions again, in single precision.

    They are not part of a checkpoint, and loading would round them to the dtype of the weights.
    """
    rotary = type(backbone.rotary_emb)(backbone.config)
    backbone.rotary_emb = rotary.to(backbone.device)


def load_language(
    architecture: type[Language],
    config: PretrainedConfig,
    tensors: dict[str, Tensor],
    unused: tuple[str, ...],
    source: str,
) -> Language:
    """A transformers model without the parts that no image needs, which saves their memory.

    Call :func:`exact_rotary` on its backbone afterwards.

    Args:
        architecture: the model's class.
        config: of the checkpoint.
        tensors: by name; the model keeps their dtypes and device.
        unused: parts to leave out, such as "model.vqmodel.encoder.", with the dot.
        source: how an error names the checkpoint.

    Raises:
        ValueError: naming every tensor that is missing, unexpected or of another shape.
    """
    with torch.device("meta"):
        language = architecture(config)
    for part in unused:
        parent, _, name = part.removesuffix(".").rpartition(".")
        delattr(language.get_submodule(parent), name)
    needed = {name: value for name, value in tensors.items() if not name.startswith(unused)}
    fit(language, needed, source)
    return language


def tied(tensors: dict[str, Tensor], config: PretrainedConfig) -> dict[str, Tensor]:
    """``tensors`` with the output head, where it is the table of input embeddings.

    A checkpoint leaves the head out then; if it has one all the same, transformers ignores it.

    Args:
        tensors: of a checkpoint, by name.
        config: says whether they are the same.
    """
    table = tensors.get("model.embed_tokens.weight")
    if not config.tie_word_embeddings or table is None:
        return tensors
    return {**tensors, "lm_head.weight": table}
