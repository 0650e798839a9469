"""Replayed acceptance: a model with random weights accepts as many drafts as a real one did.

With random weights the acceptance of drafts, and so the number of steps, would mean nothing. The
costs and steps of a shape without weights are therefore measured with a recorded acceptance.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pjd.api import generate
from pjd.decoder.acceptance import AcceptInputs, AcceptRule, accept_rule
from pjd.decoder.config import Accept
from pjd.decoder.methods import configure
from pjd.models.captions import Words
from pjd.models.emoji import EmojiModel
from pjd.models.llamagen import LlamaGen, LlamaGenConfig
from pjd.models.tokenizer import Tokenizer

Network = TypeVar("Network", bound=nn.Module)


def replay(
    shares: Sequence[float], device: torch.device | str, rule: Accept | AcceptRule = "ratio"
) -> AcceptRule:
    """A rule that accepts a draft at depth d with probability ``shares[d]``.

    Args:
        shares: probabilities by depth; the last one holds for all deeper drafts.
        device: where drafts are verified.
        rule: the method's own, or the name of one of
            :data:`pjd.decoder.acceptance.ACCEPT_RULES`. Its test is computed, because it takes
            time, but its results are replaced. Its correction stays.

    Returns:
        A rule for the option ``accept``.
    """
    share = torch.tensor(shares, device=device)
    own = accept_rule(rule)

    def replayed(inputs: AcceptInputs) -> Tensor:
        own.accepts(inputs)
        return inputs.uniforms < share[inputs.depth.clamp(max=len(shares) - 1)]

    return AcceptRule(replayed, own.correction)


def randomised(module: Network) -> Network:
    """Give ``module`` weights of a size at which distributions are neither flat nor one-hot."""
    for parameter in module.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return module


def random_llamagen(
    config: LlamaGenConfig, device: str, dtype: torch.dtype, layers: int | None = None
) -> EmojiModel:
    """A LlamaGen model with random weights, and with ``layers`` layers unless that is None."""
    config = replace(config, layers=layers or config.layers)
    with torch.device(device):
        transformer = randomised(LlamaGen(config).to(dtype))
        words = Words(["cat"], config.prefix)
        vectors = nn.Embedding(len(words), config.caption_dim)
    tokenizer = Tokenizer(codes=config.vocabulary, channels=(4, 8), blocks=(1, 1))
    model = EmojiModel("llamagen", transformer, vectors, tokenizer, words, {})
    return model.to(device, dtype)


def replayed_steps(
    side: int, method: str, context: int | None, shares: Sequence[float], images: int = 8
) -> float:
    """Mean steps on a grid of any size, if drafts are accepted with the probabilities ``shares``.

    Args:
        side: rows and columns of the grid.
        method: a preset.
        context: context tokens c, for the methods on rows.
        shares: see :func:`replay`.
        images: number of images; image i has seed i.
    """
    config = LlamaGenConfig(16, 1, 2, 64, side, prefix=4, caption_dim=8)
    model = random_llamagen(config, "cpu", torch.float32)
    options: dict[str, Any] = {} if context is None else {"context": context}
    rule = replay(shares, "cpu", configure(method).accept)
    result = generate(model, ["cat"] * images, method, guidance=1.0, accept=rule, **options)
    return float(result.steps.double().mean())
