"""What do the drafts behind the first rejection become? The choices, by name."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pjd.decoder import released
from pjd.decoder.acceptance import AcceptInputs


class RedraftRule(NamedTuple):
    """How a window is drafted anew after verification.

    Attributes:
        keeps: which drafts stay, bool [batch, queries]; all others are drawn from p. It is given
            what the test looked at; ``passed``, the drafts that passed the test, wherever they
            stand; and ``behind``, the drafts behind the first position that is not committed as
            drafted; bool [batch, queries] both.
        from_residual: drafts that failed the test are drawn from norm(max(0, p - q)) instead.
        keeps_draft_probs: drafts that stay or are accepted keep their q, instead of taking p for
            it.
        fixed_noise: tokens are drawn from p by Gumbel-max with noise that is fixed for each
            position.
    """

    keeps: Callable[[AcceptInputs, Tensor, Tensor], Tensor]
    from_residual: bool = False
    keeps_draft_probs: bool = False
    fixed_noise: bool = False


def keep_none(inputs: AcceptInputs, passed: Tensor, behind: Tensor) -> Tensor:
    """No draft stays: all are fresh samples of p (SJD)."""
    return torch.zeros_like(behind)


def keep_passed(inputs: AcceptInputs, passed: Tensor, behind: Tensor) -> Tensor:
    """Drafts that pass the test stay (MC-SJD).

    With ``from_residual`` this is the maximal coupling: a draft stays with probability
    1 - TV(p, q), the highest that any redraft with distribution p can reach.
    """
    return passed


REDRAFT_RULES: dict[str, RedraftRule] = {
    "fresh": RedraftRule(keep_none),
    "coupled": RedraftRule(keep_passed, from_residual=True),
    "gumbel": RedraftRule(keep_none, fixed_noise=True),
    "threshold": RedraftRule(released.keep_half_as_likely, keeps_draft_probs=True),
}
"""Rules by the name that the option ``redraft`` takes."""
