"""AR's own distribution at every position of decoded images (benchmarks/exact.py)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from pjd.decoder.acceptance import likelihood
from pjd.decoder.config import DecodeConfig
from pjd.decoder.model import ImageModel
from pjd.decoder.sampling import guide, probabilities
from pjd.measure.fidelity import teacher_forced


@torch.inference_mode()
def exact_probs(
    model: ImageModel, prompts: list[str], tokens: Tensor, config: DecodeConfig
) -> Iterator[Tensor]:
    """What AR draws each token from, after the tokens before it: float [R * C, ids] per image.

    Args:
        model: an embedded model, whose format has no forced row ends.
        prompts: one per image.
        tokens: int64 [images, R * C].
        config: the sampling.
    """
    for prompt, codes in zip(prompts, tokens, strict=True):
        encoded = model.encode([prompt], config.guided)
        x, positions, mask = teacher_forced(model, encoded, codes[None])
        logits = model.forward(x, positions, mask)[:, encoded.mask.shape[1] - 1 :]
        yield probabilities(guide(logits, config.guidance) if config.guided else logits, config)[0]


def fidelity(
    model: ImageModel, prompts: list[str], tokens: Tensor, config: DecodeConfig
) -> tuple[Tensor, Tensor]:
    """How likely the tokens are, and how much likelier than AR's own draws in their place.

    The second is the mean of log p(x) + H(p), where H is the entropy. It is 0 on average for
    tokens that are drawn from p, and much less of it is chance than of the first: how certain the
    model is differs from picture to picture.

    Args:
        model: see :func:`exact_probs`.
        prompts: one per image.
        tokens: int64 [images, R * C].
        config: the sampling.

    Returns:
        Nats per token, float64 [images] both.
    """
    whole, local = [], []
    for p, codes in zip(exact_probs(model, prompts, tokens, config), tokens, strict=True):
        nats = likelihood(p, codes).double().log()
        whole.append(nats.mean())
        local.append((nats + torch.special.entr(p.double()).sum(-1)).mean())
    return torch.stack(whole), torch.stack(local)
