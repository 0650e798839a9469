"""Training of the transformer on the codes of freshly composed images."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pjd.emoji.icons import Icons
from pjd.emoji.muon import Muon
from pjd.emoji.training import Training
from pjd.models.llamagen import LlamaGen
from pjd.models.tokenizer import Tokenizer


def fast_dtype(device: torch.device) -> torch.dtype:
    """The fast dtype for matrix products: bfloat16 on GPUs and CPUs that have it, else float32."""
    capable = torch.cpu.get_capabilities()
    fast = device.type == "cuda" or capable.get("amx_bf16") or capable.get("avx512_bf16")
    return torch.bfloat16 if fast else torch.float32


def train_transformer(
    model: LlamaGen,
    words: nn.Embedding,
    tokenizer: Tokenizer,
    icons: Icons,
    held_out: dict[str, Icons],
    checkpoint: Path,
    steps: int,
    batch: int = 32,
    rate: float = 2e-3,
    decay: float = 0.3,
    weight_decay: float = 0.1,
    shift: int = 2,
    compiled: bool = True,
) -> tuple[nn.ModuleDict, pd.DataFrame]:
    """Train the transformer and its word vectors on codes of freshly composed images.

    Muon trains the hidden matrices and AdamW the rest. The unconditional caption replaces a tenth
    of the captions, for classifier-free guidance.

    Args:
        model: untrained transformer.
        words: word vectors, [vocabulary of words, caption_dim].
        tokenizer: trained; it is not changed.
        icons: training icons at the model's image size.
        held_out: icons by the name of their split, for nats per token.
        checkpoint: see :class:`Training`.
        steps: optimiser steps.
        batch: images per step.
        rate: learning rate of Muon (update RMS matched to AdamW's) and of AdamW.
        decay: share of the steps, at the end, over which the rates fall to zero.
        weight_decay: decoupled decay of matrices.
        shift: the largest number of pixels by which an icon is moved, in each direction.
        compiled: whether to use ``torch.compile``.

    Returns:
        The averaged {"transformer", "words"}, and the history: loss and nats per token by split.
    """
    both = nn.ModuleDict({"transformer": model, "words": words})
    hidden = [p for p in model.layers.parameters() if p.ndim == 2]
    of_muon = {id(p) for p in hidden}
    rest = [p for p in both.parameters() if id(p) not in of_muon]
    dtype = fast_dtype(next(model.parameters()).device)
    optimizers = [
        Muon(hidden, lr=rate, weight_decay=weight_decay, dtype=dtype),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=weight_decay / 10),
    ]
    training = Training(both, optimizers, steps, checkpoint, decay=decay)
    forward = torch.compile(model.teacher_forced) if compiled else model.teacher_forced
    tokenizer.eval()

    def nats(
        forward: Callable[..., Tensor],
        words: nn.Embedding,
        source: Icons,
        rows: Tensor,
        learn: bool,
    ) -> Tensor:
        count = len(rows)
        backgrounds = torch.randint(len(source.backgrounds), (count,))
        offset = torch.randint(-shift, shift + 1, (count, 2)) if learn else None
        tokens = tokenizer.encode(source.images(rows, backgrounds, offset)).flatten(1)
        captions = source.captions(rows, backgrounds, drop=learn)
        unconditional = torch.rand(count) < (0.1 if learn else 0.0)
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=dtype is torch.bfloat16):
            logits = forward(words(captions), captions > 0, unconditional, tokens)
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten())

    def loss() -> Tensor:
        return nats(forward, words, icons, torch.randint(len(icons), (batch,)), learn=True)

    @torch.no_grad()
    def evaluate(averaged: nn.ModuleDict) -> dict[str, float]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            average = cast(LlamaGen, averaged["transformer"])
            vectors = cast(nn.Embedding, averaged["words"])
            result = {}
            for name, source in {"train": icons, **held_out}.items():
                parts = torch.randperm(len(source))[:256].split(64)
                values = [
                    nats(average.teacher_forced, vectors, source, rows, learn=False)
                    for rows in parts
                ]
                result[name] = float(torch.stack(values).mean())
        return result

    history = training.run(loss, evaluate, evaluate_every=250)
    return training.average_model, history
