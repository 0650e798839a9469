"""Image models whose transformer is our own: what they have in common."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pjd.decoder.cache import KeyValueCache, SlotCache
from pjd.decoder.compiled import run_module
from pjd.decoder.grid import Grid
from pjd.decoder.model import ModelDefaults


class BlockModel(ModelDefaults):
    """A transformer of our own that writes images; see :class:`pjd.decoder.model.ImageModel`.

    A subclass encodes prompts, decodes codes and has their codebook.

    Args:
        name: for labels.
        transformer: on its device, in its dtype; from embeddings, position ids, mask and cache to
            hidden states [batch, length, dim]. Its attribute ``block`` runs one of its layers, see
            :func:`pjd.decoder.compiled.run_module`.
        embedding: of codes.
        head: from hidden states to logits of the codes.
        cache_shape: layers, heads and width of a head.
        grid: geometry of the codes.
        sampling: the model's own defaults for options of :class:`pjd.decoder.config.DecodeConfig`.
    """

    def __init__(
        self,
        name: str,
        transformer: Any,
        embedding: nn.Embedding,
        head: nn.Linear,
        cache_shape: tuple[int, int, int],
        grid: Grid,
        sampling: dict[str, float | int],
    ) -> None:
        """Hold the transformer, in evaluation mode."""
        self.name = name
        self.transformer = transformer.eval().requires_grad_(False)
        self.embedding, self.head, self.cache_shape = embedding, head, cache_shape
        self.grid = grid
        self.vocabulary = head.out_features
        self.sampling = sampling
        self.run_head = run_module

    @property
    def device(self) -> torch.device:
        """Where the transformer lives."""
        return self.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the transformer's arithmetic."""
        return self.head.weight.dtype

    def compile(self, compiled: Callable[..., Any]) -> None:
        """Let ``compiled`` take what runs most: one block, for all layers, and the output head."""
        self.transformer.block = compiled(run_module)
        self.run_head = compiled(run_module)

    def cache(self, batch: int, slots: int) -> SlotCache:
        """Allocate a slot cache of the transformer's shape, dtype and device."""
        layers, heads, width = self.cache_shape
        return SlotCache(layers, batch, heads, slots, width, self.dtype, self.device)

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings of codes."""
        return self.embedding(tokens)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Logits of the code after each input."""
        logits = self.run_head(self.head, self.transformer(x, positions, mask, cache))
        return logits if cache is None else cache.place.unpack(logits)
