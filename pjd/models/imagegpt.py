"""ImageGPT (Generative Pretraining from Pixels, Chen et al. 2020): an image of 32x32 colours.

A GPT-2 whose tokens are the colours of pixels. It has no prompt: it writes an image after one
token that begins it. transformers' own class imposes its causal mask, so the transformer is ours;
its parameters have the official names.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ImageGPTConfig

from pjd.decoder.cache import KeyValueCache, LayerCache
from pjd.decoder.compiled import run_module
from pjd.decoder.grid import Grid
from pjd.decoder.model import Prompt
from pjd.models.attention import Attend, attend_through, fastest, sdpa
from pjd.models.block_model import BlockModel
from pjd.models.catalogue import FILES, IMAGEGPT_SAMPLING, matching
from pjd.models.checkpoint import fit, read, require
from pjd.models.files import read_json
from pjd.models.linear import Linear
from pjd.models.transformers_checkpoint import read_config

ASSUMED = {
    "activation_function": "quick_gelu",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
"""Values of a configuration that the transformer here is written for, as all official ones are."""

BUFFERS = (".attn.bias", ".attn.masked_bias")
"""Ends of names in older checkpoints: masks, which are computed here."""

TRANSPOSED = (".c_attn.weight", ".c_fc.weight", ".c_proj.weight")
"""Ends of names of weights that a checkpoint has as [inputs, outputs]."""


class Attention(nn.Module):
    """Multi-head self-attention with fused query, key and value weights."""

    def __init__(self, dim: int, heads: int) -> None:
        """Make the two projections."""
        super().__init__()
        self.heads = heads
        self.c_attn = Linear(dim, 3 * dim)
        self.c_proj = Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor, cache: LayerCache | None, attend: Attend) -> Tensor:
        """Attend from ``x`` [..., dim] to itself or, with a cache, to all its slots."""
        heads = self.c_attn(x).unflatten(-1, (3 * self.heads, -1))
        query, key, value = heads.chunk(3, dim=-2)
        return self.c_proj(attend_through(cache, query, key, value, mask, attend))


class FeedForward(nn.Module):
    """Two linear maps, and between them a GELU in the approximation of a sigmoid."""

    def __init__(self, dim: int, inner: int) -> None:
        """Make the two maps."""
        super().__init__()
        self.c_fc = Linear(dim, inner)
        self.c_proj = Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., dim] to the same shape."""
        x = self.c_fc(x)
        return self.c_proj(x * torch.sigmoid(1.702 * x))


class Block(nn.Module):
    """Pre-normalised attention and feed-forward. The normalisation does not subtract the mean."""

    def __init__(self, config: ImageGPTConfig) -> None:
        """Make one block."""
        super().__init__()
        dim, epsilon = config.n_embd, config.layer_norm_epsilon
        self.ln_1 = nn.RMSNorm(dim, eps=epsilon)
        self.attn = Attention(dim, config.n_head)
        self.ln_2 = nn.RMSNorm(dim, eps=epsilon)
        self.mlp = FeedForward(dim, config.n_inner or 4 * dim)

    def forward(
        self, x: Tensor, mask: Tensor, cache: LayerCache | None, attend: Attend = sdpa
    ) -> Tensor:
        """Map [..., dim] to the same shape."""
        x = x + self.attn(self.ln_1(x), mask, cache, attend)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """From embeddings of colours to hidden states."""

    def __init__(self, config: ImageGPTConfig) -> None:
        """Make the layers."""
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.heads = config.n_head
        self.ln_f = nn.RMSNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.block = run_module

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Hidden states [batch, length, dim]; see :class:`pjd.decoder.model.ImageModel`."""
        # The image's last token would have one position more than there are; nothing follows it.
        x = x + self.wpe(positions.clamp(max=self.wpe.num_embeddings - 1))
        attend = fastest(cache, self.heads, x.shape[1], mask, self.block is not run_module)
        if cache is not None:
            x = cache.leave_out_blanks().pack(x)
        for index, layer in enumerate(self.h):
            slots = None if cache is None else cache.layer(index)
            x = self.block(layer, x, mask, slots, attend)
        return self.ln_f(x)


class ImageGPT(nn.Module):
    """The parameters of a checkpoint: the transformer, and the head that gives logits of codes."""

    def __init__(self, config: ImageGPTConfig) -> None:
        """Make both."""
        super().__init__()
        self.transformer = Transformer(config)
        self.lm_head = Linear(config.n_embd, config.vocab_size - 1, bias=False)


class ImageGPTModel(BlockModel):
    """An ImageGPT that writes images; see :class:`pjd.decoder.model.ImageModel`.

    Args:
        name: for labels.
        parameters: on their device, in their dtype.
        config: its sizes; ``n_positions`` is a square.
        colours: of the codes, float [codes, 3] from -1 to 1.
    """

    takes_prompts = False
    takes_guidance = False

    def __init__(
        self, name: str, parameters: ImageGPT, config: ImageGPTConfig, colours: Tensor
    ) -> None:
        """Put the parts together, in evaluation mode."""
        side = math.isqrt(config.n_positions)
        cache_shape = (config.n_layer, config.n_head, config.n_embd // config.n_head)
        transformer, head = parameters.transformer, parameters.lm_head.requires_grad_(False)
        table, grid = transformer.wte, Grid(side, side)
        super().__init__(name, transformer, table, head, cache_shape, grid, IMAGEGPT_SAMPLING)
        # A colour has a length of its own; with a 1 behind it, near directions are near colours.
        self.codebook = F.normalize(F.pad(colours, (0, 1), value=1.0), dim=-1)
        self.colours = (127.5 * (colours + 1)).round().clamp(0, 255).to(torch.uint8)

    def to(self, device: torch.device | str) -> "ImageGPTModel":
        """Move the model; returns itself."""
        for module in (self.transformer, self.head):
            module.to(device)
        self.codebook, self.colours = self.codebook.to(device), self.colours.to(device)
        return self

    def encode(self, prompts: list[str], guided: bool) -> Prompt:
        """The token that begins an image, for each of ``prompts``, which say nothing."""
        begin = torch.full((len(prompts), 1), self.vocabulary, device=self.device)
        return Prompt(self.embedding(begin), begin >= 0, torch.zeros_like(begin))

    def decode(self, tokens: Tensor) -> Tensor:
        """The colours of the codes."""
        return self.colours[tokens.unflatten(1, (self.grid.rows, self.grid.columns))]


def read_colours(path: Path, codes: int) -> Tensor:
    """The colours of the codes, float [codes, 3], by a checkpoint's ``preprocessor_config.json``.

    Raises:
        ValueError: naming the file, if it does not say one colour per code.
    """
    clusters = read_json(path).get("clusters")
    try:
        colours = torch.tensor(clusters, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        colours = torch.empty(0)
    if colours.shape != (codes, 3) or not torch.isfinite(colours).all():
        raise ValueError(f"{path}: clusters must be {codes} colours of 3 numbers")
    return colours


def check(config: ImageGPTConfig, source: Path) -> None:
    """Raise ValueError, naming ``source``, unless the transformer here is what it describes."""
    for name, assumed in ASSUMED.items():
        if getattr(config, name) != assumed:
            raise ValueError(f"{source}: {name} = {getattr(config, name)!r}: must be {assumed!r}")
    if math.isqrt(config.n_positions) ** 2 != config.n_positions:
        raise ValueError(f"{source}: n_positions = {config.n_positions}: must be a square")


def load(
    name: str,
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ImageGPTModel:
    """Read an official checkpoint.

    Args:
        name: for labels.
        folder: with ``config.json``, ``preprocessor_config.json`` and the weights, as
            ``model.safetensors`` or ``pytorch_model.bin``.
        device: where the model goes.
        dtype: of its arithmetic.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for a damaged file, a configuration of another architecture, or a tensor that is
            missing, unexpected or of another shape.
    """
    *described, weights = FILES["imagegpt"]
    require(name, folder, *described)
    config = read_config(ImageGPTConfig, folder / "config.json")
    check(config, folder / "config.json")
    colours = read_colours(folder / "preprocessor_config.json", config.vocab_size - 1)
    found = matching(folder, weights)
    if not found:
        raise FileNotFoundError(f"model {name}: no file {weights} in {folder}")
    tensors = {
        key: (value.t() if key.endswith(TRANSPOSED) else value).to(dtype).contiguous()
        for key, value in read(found[0], device).items()
        if not key.endswith(BUFFERS)
    }
    with torch.device("meta"):
        parameters = ImageGPT(config)
    fit(parameters, tensors, str(found[0]))
    return ImageGPTModel(name, parameters, config, colours.to(device))
