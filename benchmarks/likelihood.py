"""How likely decoded images are under AR."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pjd.decoder.model import ImageModel
from pjd.measure.fidelity import code_logits


def nats_and_excess(
    model: ImageModel,
    prompts: list[str],
    tokens: Tensor,
    guidance: float,
    temperature: float = 1.0,
    previews: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor]:
    """How likely images are under their model, by the mean over their codes.

    Args:
        model: the model that decoded.
        prompts: one per image.
        tokens: codes int64 [images, R * C].
        guidance: classifier-free guidance scale.
        temperature: 0 counts as 1.
        previews: codes of the grids before the last, each int64 [images, R * C].

    Returns:
        nats, the log-likelihood, and excess, by how much it is above its expectation: the negative
        entropy of what each code is drawn from; float64 [images] both. The excess of AR's images is
        0 on average, and differs much less from image to image than the nats do.
    """
    nats, excess = [], []
    parts = code_logits(model, prompts, tokens, guidance, temperature, previews=previews)
    for codes, logits in parts:
        logs = logits.double().log_softmax(-1)
        of_codes = logs.gather(-1, codes[..., None]).squeeze(-1)
        nats.append(of_codes.mean(1))
        excess.append((of_codes - (logs.exp() * logs).sum(-1)).mean(1))
    return torch.cat(nats), torch.cat(excess)
