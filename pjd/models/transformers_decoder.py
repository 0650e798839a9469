"""Any raster-order model whose backbone is a transformers decoder (Llama, Chameleon, ...).

We do not change the decoder. We give it input embeddings, position ids, a 4-D mask and a cache,
which together say everything that it would otherwise infer from the order of its inputs.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from pjd.decoder.cache import KeyValueCache, LayerCache, SlotCache, SplitCache
from pjd.decoder.compiled import run_module
from pjd.decoder.grid import Grid
from pjd.decoder.model import ModelDefaults, Prompt
from pjd.errors import ParameterError
from pjd.models.attention import fastest
from pjd.models.dispatched import Spread, is_dispatched, parameters_of
from pjd.models.transformers_attention import FEW_QUERIES


class DecoderCache(Cache):
    """A slot cache behind the interface of transformers.

    Args:
        slots: of each layer, with the slots that this forward pass writes.
    """

    def __init__(self, slots: list[LayerCache]) -> None:
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
        layer = self.slots[layer_idx]
        return layer.update(key_states.transpose(1, 2), value_states.transpose(1, 2))

    def get_seq_length(self, layer_idx: int = 0) -> NoReturn:
        """Refuse: slots are filled in any order, so a length does not say where an input goes.

        Raises:
            NotImplementedError: always; every forward pass comes with its positions and mask.
        """
        raise NotImplementedError("a slot cache has no length: give position_ids and a 4-D mask")


def code_head(head: nn.Linear, tokens: Tensor) -> nn.Linear:
    """The part of an output head that computes the logits of the codes.

    Args:
        head: computes the logits of all tokens, of text too.
        tokens: int64 [vocabulary], the token of each code.
    """
    part = nn.Linear(head.in_features, len(tokens), bias=head.bias is not None, device="meta")
    for name, weight in parameters_of(head).items():
        setattr(part, name, nn.Parameter(weight[tokens]))
    return part


def share(layer: nn.Module, index: int, run: Callable[..., Any]) -> None:
    """Run a layer by ``run``, which other layers share.

    Nothing but tensors may differ between them, so a layer gets a cache of its own as the only one.

    Args:
        layer: of a transformers decoder.
        index: its place among the layers.
        run: takes a layer and what its ``forward`` takes. A cache of transformers is refused then.
    """

    def forward(*inputs: Any, past_key_values: Any = None, **options: Any) -> Any:
        if past_key_values is not None:
            if not isinstance(past_key_values, DecoderCache):
                advice = "load it again for transformers' own generate"
                raise TypeError(f"this model is compiled for PJD's cache: {advice}")
            past_key_values = DecoderCache([past_key_values.slots[index]])
        return run(layer, *inputs, past_key_values=past_key_values, **options)

    setattr(layer.get_submodule("self_attn"), "layer_idx", 0)  # noqa: B010
    layer.forward = forward


class DecoderModel(ModelDefaults):
    """A transformers decoder that writes images; see :class:`pjd.decoder.model.ImageModel`.

    Args:
        name: for labels.
        backbone: computes hidden states from ``inputs_embeds``, such as ``LlamaModel``; every
            layer has full attention. Its attention implementation becomes
            :func:`pjd.models.transformers_attention.few_queries`.
        grid: geometry; ``row_end`` is the backbone's token after every row, or None.
        tokens: int64 [vocabulary], the backbone's token of each code.
        head: from hidden states [..., dim] to logits of the codes [..., vocabulary], see
            :func:`code_head`.
        prompt: from a text and True to the tokens before the first code; with False, to those of
            the unconditional prompt. None: prompts come as tokens, see :meth:`encode_tokens`.
        pixels: from codes int64 [batch, R, C] to images uint8 [batch, height, width, 3].
        codebook: unit vectors of the codes, float [vocabulary, width].
        sampling: the model's own defaults for options of :class:`pjd.decoder.config.DecodeConfig`.
        embedding: from the backbone's tokens int64 [...] of an image to inputs [..., dim]; None:
            the embedding that prompts use.

    Raises:
        ValueError: if the backbone has a sliding window, or if there are not as many vectors as
            codes.
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
        if getattr(config, "sliding_window", None) is not None:
            raise ValueError(f"{name}: sliding_window is {config.sliding_window}, must be None")
        if len(tokens) != len(codebook):
            raise ValueError(f"{name}: {len(tokens)} codes have tokens, {len(codebook)} a vector")
        self.name = name
        self.grid = grid
        self.vocabulary = len(tokens)
        self.sampling = sampling
        self.prompt = prompt
        row_end = [] if grid.row_end is None else [grid.row_end]
        self.tokens = torch.cat([tokens, tokens.new_tensor(row_end)])
        self.codebook = codebook
        # Of the backbone alone: transformers warns of parts that a config names and no model has.
        backbone.set_attn_implementation({"": FEW_QUERIES})
        self.backbone = backbone
        self.head = head
        self.embedding = backbone.get_input_embeddings() if embedding is None else embedding
        self.pixels = pixels
        self.run_head = run_module
        for module in (self.backbone, self.head, self.embedding, self.pixels):
            module.eval().requires_grad_(False)
        self.spread = Spread(name, backbone) if is_dispatched(backbone) else None
        # A graph would repeat neither another device's work nor the reading of offloaded weights.
        self.capturable = self.spread is None
        self.to(backbone.device if self.spread is None else self.spread.home)

    @property
    def dtype(self) -> torch.dtype:
        """Of the backbone's arithmetic."""
        return self.backbone.dtype

    def to(self, device: torch.device | str) -> "DecoderModel":
        """Move the model; returns itself.

        It has no parameter for the dtype, which is chosen when the model is loaded: a module's
        ``to`` would also round the frequencies of the rotary positions.

        Raises:
            ParameterError: if ``device_map`` has placed the model, and this is another device than
                that of its input embeddings.
        """
        if self.spread is not None and torch.device(device) != self.spread.home:
            allowed = f"must be {self.spread.home}: device_map has placed {self.name} for good"
            raise ParameterError("device", str(device), allowed)
        self.device = torch.device(device)
        for module in (self.backbone, self.head, self.embedding, self.pixels):
            if not is_dispatched(module):
                module.to(self.device)
        self.tokens = self.tokens.to(self.device)
        self.codebook = self.codebook.to(self.device)
        return self

    def encode(self, prompts: list[str], guided: bool) -> Prompt:
        """Embed the prompts and, if ``guided``, as many unconditional ones.

        Raises:
            ValueError: if the model takes only prompts that are tokens.
        """
        if self.prompt is None:
            raise ValueError(f"{self.name}: prompts must be tokens, see encode_tokens")
        branches = (True, False) if guided else (True,)
        return self.encode_tokens(
            [self.prompt(text, conditional) for conditional in branches for text in prompts]
        )

    def encode_tokens(self, rows: list[list[int]]) -> Prompt:
        """Embed prompts that are tokens: those of the conditional branch first.

        Prompts are padded on the left; the positions of each count from 0.
        """
        length = max(map(len, rows))
        ids = [[0] * (length - len(row)) + row for row in rows]
        padding = torch.tensor([[length - len(row)] for row in rows], device=self.device)
        positions = torch.arange(length, device=self.device) - padding
        embeddings = self.backbone.get_input_embeddings()(torch.tensor(ids, device=self.device))
        return Prompt(embeddings, positions >= 0, positions.clamp(min=0))

    def compile(self, compiled: Callable[..., Any]) -> None:
        """Let ``compiled`` take what runs most: one layer, for all layers, and the output head.

        Raises:
            NotImplementedError: if ``device_map`` has placed the model: hooks between its layers
                move inputs and weights, which no compiled layer would wait for.
        """
        if self.spread is not None:
            advice = "load it without device_map, or do not compile it"
            raise NotImplementedError(f"{self.name}: placed by device_map, not compiled: {advice}")
        run = compiled(run_module)
        for index, layer in enumerate(self.backbone.layers):
            share(layer, index, run)
        self.run_head = compiled(run_module)

    def cache(self, batch: int, slots: int) -> SlotCache | SplitCache:
        """Allocate a slot cache of the backbone's shape and dtype, each layer on its device."""
        config = self.backbone.config
        head_dim = getattr(config, "head_dim", None)
        shape = (
            batch,
            config.num_key_value_heads,
            slots,
            head_dim or config.hidden_size // config.num_attention_heads,
        )
        if self.spread is not None:
            return SplitCache(self.spread.devices, *shape, self.backbone.dtype)
        return SlotCache(config.num_hidden_layers, *shape, self.backbone.dtype, self.device)

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings of codes and of the id ``vocabulary``, which is the forced row-end token."""
        return self.embedding(self.tokens[tokens]).to(self.device)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Logits of the code after each input.

        Raises:
            ValueError: if the backbone was given another implementation of attention since.
        """
        config = self.backbone.config
        # "eager" would silently add a boolean mask to the scores.
        if config._attn_implementation not in ("sdpa", FEW_QUERIES):
            found, advice = config._attn_implementation, "call set_attn_implementation('sdpa')"
            raise ValueError(f"{self.name}: attention is {found}, must be sdpa: {advice}")
        slots = None
        if cache is not None:
            slots = DecoderCache([cache.layer(index) for index in range(config.num_hidden_layers)])
        compiled = self.run_head is not run_module
        # A kernel is chosen for all layers at once, which must be on one device.
        on_one_device = cache if self.spread is None else None
        attend = fastest(on_one_device, config.num_attention_heads, x.shape[1], mask, compiled)
        with nullcontext() if self.spread is None else self.spread.inputs_moved_once():
            hidden = self.backbone(
                inputs_embeds=x,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=slots,
                use_cache=slots is not None,
                attend=attend,
            )
        # On one device these moves are none.
        last = hidden.last_hidden_state.to(self.device)
        return self.run_head(self.head, last).to(self.device)

    def decode(self, tokens: Tensor) -> Tensor:
        """Pixels of the codes, image by image: a large image's activations take gigabytes."""
        codes = tokens.unflatten(1, (self.grid.rows, self.grid.columns))
        return torch.cat([self.pixels(image) for image in codes.split(1)])


Written = TypeVar("Written", bound=DecoderModel)


def with_codes_from(
    first: int,
    name: str,
    language: Any,
    grid: Grid,
    prompt: Callable[[str, bool], list[int]] | None,
    pixels: nn.Module,
    codebook: Tensor,
    sampling: dict[str, float | int],
    model: type[Written] = DecoderModel,  # type: ignore[assignment]
) -> Written:
    """A model of one vocabulary, in which the codes' tokens follow each other.

    Args:
        first: the token of code 0, such as the number of tokens of text.
        name: for labels.
        language: a transformers model with ``model`` and ``lm_head``.
        grid: see :class:`DecoderModel`.
        prompt: see :class:`DecoderModel`.
        pixels: see :class:`DecoderModel`.
        codebook: unit vectors of the codes, float [vocabulary, width].
        sampling: see :class:`DecoderModel`.
        model: its class.

    Raises:
        ValueError: if the transformer has too few tokens.
    """
    end, room = first + len(codebook), language.config.vocab_size
    if room < end:
        raise ValueError(f"{name}: vocab_size = {room}: must be at least {end}, the codes' end")
    tokens = torch.arange(first, end, device=language.device)
    return model(
        name=name,
        backbone=language.model,
        grid=grid,
        tokens=tokens,
        head=code_head(language.lm_head, tokens),
        prompt=prompt,
        pixels=pixels,
        codebook=codebook,
        sampling=sampling,
    )


@dataclass(frozen=True)
class Wrapped:
    """A wrapped transformers model and its prompts; see :mod:`pjd.custom_generate`.

    Attributes:
        model: takes only prompts that are tokens.
        conditional: tokens of each prompt.
        unconditional: tokens of each unconditional prompt, one per prompt.
        closing: tokens after the image.
        guidance: the guidance scale if the caller of ``generate`` gives none.
    """

    model: DecoderModel
    conditional: list[list[int]]
    unconditional: list[list[int]]
    closing: list[int] = field(default_factory=list)
    guidance: float = 1.0

    def encode(self, guided: bool) -> Prompt:
        """The prompts, with the unconditional branch if ``guided``."""
        return self.model.encode_tokens(self.conditional + (self.unconditional if guided else []))
