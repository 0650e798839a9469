"""Any raster-order model whose backbone is a transformers decoder (Llama, Chameleon, ...).

The decoder runs as it is: it is given input embeddings, position ids, a 4-D mask and a cache,
which together say everything that it would otherwise infer from the order of its inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from pjd.decoder.cache import SlotCache
from pjd.decoder.grid import Grid
from pjd.decoder.model import Prompt


class DecoderCache(Cache):
    """A slot cache behind the interface of transformers.

    Args:
        slots: aimed at the slots of the next forward's inputs.
    """

    def __init__(self, slots: SlotCache) -> None:
        """Hold the slots; transformers' own layers stay empty."""
        super().__init__(layers=[])
        self.slots = slots

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write [batch, key-value heads, length, head_dim] to the current slots of a layer.

        Returns:
            All keys and values of the layer, [batch, key-value heads, slots, head_dim].
        """
        return self.slots.update(key_states, value_states, layer_idx)

    def get_seq_length(self, layer_idx: int = 0) -> NoReturn:
        """Refuse: slots are filled in any order, so no length tells where the next input goes.

        Raises:
            NotImplementedError: always; positions and mask are given with every forward.
        """
        raise NotImplementedError("a slot cache has no length: give position_ids and a 4-D mask")


def code_head(head: nn.Linear, tokens: Tensor) -> nn.Linear:
    """The part of an output head that gives the logits of image codes.

    Args:
        head: logits of the whole vocabulary.
        tokens: int64 [vocabulary], the token of each image code.
    """
    part = nn.Linear(head.in_features, len(tokens), bias=head.bias is not None, device="meta")
    for name, parameter in head.named_parameters():
        setattr(part, name, nn.Parameter(parameter.detach()[tokens]))
    return part


def exact_rotary(backbone: PreTrainedModel) -> None:
    """Compute the frequencies of the rotary positions anew, in single precision.

    They are no part of a checkpoint, and would be rounded with the weights.
    """
    rotary = type(backbone.rotary_emb)(backbone.config)
    backbone.rotary_emb = rotary.to(backbone.device)


class DecoderModel:
    """A transformers decoder that writes images; see :class:`pjd.decoder.model.ImageModel`.

    Args:
        name: for labels.
        backbone: gives hidden states of ``inputs_embeds``, such as ``LlamaModel``; full attention
            in every layer, by the implementation "sdpa".
        grid: geometry; ``row_end`` is the token that the format forces after a row, or None.
        tokens: int64 [vocabulary], the backbone's token of each image code.
        head: hidden states [..., dim] to logits of the image codes [..., vocabulary], see
            :func:`code_head`.
        prompt: tokens of a prompt (True), or of its unconditional counterpart (False), up to the
            last one before the first code; None: prompts come as tokens, see
            :meth:`encode_tokens`.
        pixels: codes int64 [batch, R, C] to images uint8 [batch, height, width, 3].
        codebook: unit vectors of the codes, float [vocabulary, width].
        sampling: the model's own defaults for options of :class:`pjd.decoder.config.DecodeConfig`.
        embedding: tokens int64 [...] of the image to inputs [..., dim]; None: as those of prompts.

    Raises:
        ValueError: if the backbone's attention is not as above.
    """

    def __init__(
        self,
        name: str,
        backbone: PreTrainedModel,
        grid: Grid,
        tokens: Tensor,
        head: nn.Module,
        prompt: Callable[[str, bool], list[int]] | None,
        pixels: nn.Module,
        codebook: Tensor,
        sampling: dict[str, float | int],
        embedding: nn.Module | None = None,
    ) -> None:
        """Put the parts together, in evaluation mode."""
        config = backbone.config
        # "eager" would add a boolean mask to the scores, and say nothing.
        if config._attn_implementation != "sdpa":
            raise ValueError(f"{name}: attention is {config._attn_implementation}, must be sdpa")
        if getattr(config, "sliding_window", None) is not None:
            raise ValueError(f"{name}: sliding_window is {config.sliding_window}, must be None")
        self.name = name
        self.grid = grid
        self.vocabulary = len(tokens)
        self.sampling = sampling
        self.prompt = prompt
        row_end = [] if grid.row_end is None else [grid.row_end]
        self.tokens = torch.cat([tokens, tokens.new_tensor(row_end)])
        self.codebook = codebook
        self.backbone = backbone
        self.head = head
        self.embedding = backbone.get_input_embeddings() if embedding is None else embedding
        self.pixels = pixels
        for module in (self.backbone, self.head, self.embedding, self.pixels):
            module.eval().requires_grad_(False)
        self.to(backbone.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of the backbone's arithmetic."""
        return self.backbone.dtype

    def to(self, device: torch.device | str) -> "DecoderModel":
        """Move the model; returns itself.

        Its dtype is chosen when it is loaded: a module's ``to`` would round the frequencies of
        the rotary positions as well.
        """
        self.device = torch.device(device)
        for module in (self.backbone, self.head, self.embedding, self.pixels):
            module.to(self.device)
        self.tokens = self.tokens.to(self.device)
        self.codebook = self.codebook.to(self.device)
        return self

    def encode(self, prompts: list[str], guided: bool) -> Prompt:
        """Embed the prompts, and their unconditional counterparts if ``guided``.

        Raises:
            ValueError: if the model takes prompts as tokens only.
        """
        if self.prompt is None:
            raise ValueError(f"{self.name}: prompts must be tokens, see encode_tokens")
        branches = (True, False) if guided else (True,)
        return self.encode_tokens(
            [self.prompt(text, conditional) for conditional in branches for text in prompts]
        )

    def encode_tokens(self, rows: list[list[int]]) -> Prompt:
        """Embed prompts given as tokens, the unconditional branch (if any) after the other.

        Prompts are padded on the left; the positions of each count from 0.
        """
        length = max(map(len, rows))
        ids = [[0] * (length - len(row)) + row for row in rows]
        padding = torch.tensor([[length - len(row)] for row in rows], device=self.device)
        positions = torch.arange(length, device=self.device) - padding
        embeddings = self.backbone.get_input_embeddings()(torch.tensor(ids, device=self.device))
        return Prompt(embeddings, positions >= 0, positions.clamp(min=0))

    def cache(self, batch: int, slots: int) -> SlotCache:
        """Allocate a slot cache of the backbone's shape, dtype and device."""
        config = self.backbone.config
        head_dim = getattr(config, "head_dim", None)
        return SlotCache(
            config.num_hidden_layers,
            batch,
            config.num_key_value_heads,
            slots,
            head_dim or config.hidden_size // config.num_attention_heads,
            self.backbone.dtype,
            self.device,
        )

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings of image codes, and of the id ``vocabulary``, the forced row-end token."""
        return self.embedding(self.tokens[tokens])

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor, cache: SlotCache | None = None
    ) -> Tensor:
        """Logits of the code after each input."""
        hidden = self.backbone(
            inputs_embeds=x,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=None if cache is None else DecoderCache(cache),
            use_cache=cache is not None,
        )
        return self.head(hidden.last_hidden_state)

    def decode(self, tokens: Tensor) -> Tensor:
        """Pixels of the codes, image by image: activations of a large one take gigabytes."""
        codes = tokens.unflatten(1, (self.grid.rows, self.grid.columns))
        return torch.cat([self.pixels(image) for image in codes.split(1)])


@dataclass(frozen=True)
class Wrapped:
    """A model around transformers' own, and its prompts; see :mod:`pjd.custom_generate`.

    Attributes:
        model: has no prompts of text.
        conditional: tokens of each prompt.
        unconditional: tokens of the branch without a prompt, one list per prompt.
        closing: tokens after the image.
        guidance: the scale where the caller of ``generate`` gives none.
    """

    model: DecoderModel
    conditional: list[list[int]]
    unconditional: list[list[int]]
    closing: list[int] = field(default_factory=list)
    guidance: float = 1.0

    def encode(self, guided: bool) -> Prompt:
        """The prompts, with the unconditional branch if ``guided``."""
        return self.model.encode_tokens(self.conditional + (self.unconditional if guided else []))
