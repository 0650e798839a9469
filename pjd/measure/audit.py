"""Are codes the autoregressive model's own draws? Asked one by one, with the same noise."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pjd.decoder.config import DecodeConfig
from pjd.decoder.grid import RowLayout
from pjd.decoder.grids import check_one_grid
from pjd.decoder.model import ImageModel
from pjd.decoder.noise import FIXED, streams, uniform
from pjd.decoder.redraft import REDRAFT_RULES
from pjd.decoder.sampling import waiting_times
from pjd.errors import ParameterError
from pjd.measure.fidelity import code_probs

NEAR = 0.1
"""Nats by which the model's own draw may lead for a miss to count as a near-tie: rounding of logits
in 16 bits moves them by about as much."""


@dataclass(frozen=True)
class Audit:
    """What an audit finds.

    Attributes:
        equal: bool [images, R * C]; the code is what plain AR draws after the codes before it.
        lead: float [images, R * C], nats; by how much that draw leads the code, 0 where equal.
    """

    equal: Tensor
    lead: Tensor

    def summary(self) -> dict[str, float]:
        """Share of equal codes, share of near-ties among the others, and the largest lead."""
        missed = self.lead[~self.equal]
        return {
            "codes": float(self.equal.numel()),
            "equal": float(self.equal.double().mean()),
            "near_ties": float((missed < NEAR).double().mean()) if len(missed) else float("nan"),
            "largest_miss": float(missed.max()) if len(missed) else 0.0,
        }


def check_noise(config: DecodeConfig) -> None:
    """Raise :class:`ParameterError` unless ``config`` draws with noise fixed by position."""
    if not REDRAFT_RULES[config.redraft].fixed_noise:
        allowed = (
            "must be gumbel: only then is the noise that a code was drawn with known, so decode "
            "with `--set redraft=gumbel`, or by `jacobi`"
        )
        raise ParameterError("redraft", config.redraft, allowed)


@torch.inference_mode()
def audit(
    model: ImageModel,
    prompts: list[str],
    tokens: Tensor,
    seeds: Tensor,
    config: DecodeConfig,
    batch_size: int = 8,
) -> Audit:
    """Compare codes with what plain AR draws, after the same codes and with the same noise.

    Every code is drawn again from the model's distribution after the codes before it, by
    Gumbel-max with the noise that is fixed for its position: in exact arithmetic the codes of
    ``jacobi`` and of ``ar`` with that noise are all equal. In 16 bits they are not, since a
    forward pass of another width rounds otherwise.

    Args:
        model: in the dtype to be asked about.
        prompts: one per image.
        tokens: codes int64 [images, R * C].
        seeds: int64 [images].
        config: that they were decoded with.
        batch_size: images per forward pass.

    Raises:
        ParameterError: see :func:`check_noise`; or if the model has several grids.
    """
    check_noise(config)
    check_one_grid(model, "the audit")
    grid, equal, lead = model.grid, [], []
    n_ids = RowLayout.of(grid, config, model.vocabulary).n_ids
    raster = torch.arange(grid.length)
    raster = raster[~grid.is_row_end(raster)]
    place, ids = raster[:, None], torch.arange(n_ids)
    parts = code_probs(model, prompts, tokens, config, batch_size)
    for (codes, probs), part in zip(parts, seeds.split(batch_size), strict=True):
        probs = F.pad(probs, (0, n_ids - model.vocabulary))
        noise = uniform(place, ids, state=streams(part)[:, None, None, FIXED])
        # The code that comes first is drawn; how much earlier it comes, in nats, is its lead.
        first = probs.double().log() - waiting_times(noise.to(probs.device)).double().log()
        best, drawn = first.max(-1)
        own = first.gather(-1, codes[..., None]).squeeze(-1)
        equal.append((drawn == codes).cpu())
        lead.append((best - own).cpu())
    return Audit(torch.cat(equal), torch.cat(lead))
