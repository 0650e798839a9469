"""Helpers of the decoder's tests: engines from prompts, rules with a known outcome, one window."""

import torch
from scipy.stats import chisquare
from torch import Tensor

from pjd.decoder.acceptance import AcceptRule
from pjd.decoder.config import DecodeConfig
from pjd.decoder.engine import Engine
from pjd.decoder.methods import PRESETS, configure
from pjd.decoder.model import ImageModel
from pjd.decoder.noise import Noise
from pjd.decoder.queries import Queries
from pjd.decoder.schedule import Band
from pjd.decoder.verify import Drafts, Verified, verify

PROMPTS = ["cat", "red dog", "dog", "red cat dog", "cat cat"]
GREEDY = {"temperature": 0, "guidance": 2.0}
BY_ROWS = [name for name, preset in PRESETS.items() if preset.by_rows]

ALWAYS = AcceptRule(lambda inputs: inputs.uniforms < 2)
"""Accepts every draft."""
NEVER = AcceptRule(lambda inputs: inputs.uniforms > 2)
"""Accepts no draft."""

DRAWS = 40_000
"""Verifications whose outcomes are compared with a distribution."""
TARGET = torch.tensor([0.5, 0.3, 0.2, 0.0])
"""The distribution that :func:`p_value` compares with."""


def engine_of(
    model: ImageModel,
    config: DecodeConfig,
    prompts: list[str],
    seeds: Tensor,
    static: bool | None = None,
) -> Engine:
    """The engine that decodes ``prompts``, the i-th with ``seeds[i]``."""
    return Engine(model, config, model.encode(prompts, config.guided), seeds, static)


def decode_ten(model: ImageModel, method: str, static: bool) -> tuple[Tensor, set[int]]:
    """Codes of ten images, and the numbers of queries that the forward passes had."""
    config = configure(method, seed=3, **({"context": 2} if method in BY_ROWS else {}))
    engine = engine_of(model, config, 2 * PROMPTS, torch.arange(10), static)
    sizes, target = set(), engine.target

    def watched(logits, queries, position):
        sizes.add(queries.token.shape[1])
        return target(logits, queries, position)

    engine.target = watched
    return engine.run().tokens, sizes


def verified(
    p: Tensor,
    q: Tensor,
    drafts: Tensor,
    *,
    n_drafts: int,
    max_commits: int,
    resample: bool = True,
    accept_uniforms: Tensor | float,
    sample_uniforms: Tensor | float,
    **options: object,
) -> Verified:
    """Verify the window of one lane in each of a batch of images.

    Args:
        p: target distributions, float [batch, window, ids].
        q: draft distributions, of the same shape.
        drafts: int64 [batch, window].
        n_drafts: drafts to test, the first ones.
        max_commits: the largest number of tokens to commit.
        resample: whether the lane may commit a token that was not drafted.
        accept_uniforms: numbers [batch, window] for acceptance, or one number for all.
        sample_uniforms: numbers [batch, window] for drawing tokens, or one number for all.
        options: of the decoder; those of "sjd" where nothing else is given.
    """
    depth = torch.arange(drafts.shape[1]).expand_as(drafts)
    limit = torch.ones_like(drafts[:, :1])
    done = verify(
        p,
        Drafts(drafts, q),
        queries_of(torch.zeros_like(drafts), depth),
        band_of(n_drafts * limit, max_commits * limit, resample & (limit > 0)),
        Noise(
            torch.as_tensor(accept_uniforms).expand(drafts.shape),
            torch.as_tensor(sample_uniforms).expand(drafts.shape),
        ),
        configure("sjd", **options),
        torch.eye(p.shape[-1]),
    )
    assert done.accepted.shape == done.committed.shape == (len(drafts), 1)
    return done


def queries_of(lane: Tensor, depth: Tensor) -> Queries:
    """Queries of which only lane and depth matter, both int64 [batch, queries]."""
    return Queries(*[torch.zeros_like(lane)] * 6, lane, depth, lane[:, :1] < 0)


def band_of(n_drafts: Tensor, max_commits: Tensor, resample: Tensor) -> Band:
    """A band of which only the limits matter, each [batch, lanes]."""
    zeros = torch.zeros_like(n_drafts)
    return Band(zeros[:, :1], zeros, zeros, zeros == 0, n_drafts, max_commits, resample)


def p_value(tokens: Tensor) -> float:
    """Chi-square test of ``tokens`` int64 [DRAWS] against :data:`TARGET`."""
    counts = torch.bincount(tokens, minlength=4).double()
    assert counts[3] == 0
    return float(chisquare(counts[:3], TARGET[:3].double() * DRAWS).pvalue)
