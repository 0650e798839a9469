"""What do the drafts behind the first rejection become? The choices, by name."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pjd.decoder.acceptance import AcceptInputs
from pjd.decoder.released import at_least_half_as_likely


class RedraftInputs(NamedTuple):
    """What a rule may look at.

    Attributes:
        accept: what the test looked at.
        passed: bool [batch, queries]; drafts that passed the test, wherever they stand.
        behind: bool [batch, queries]; drafts behind the first position that is not committed as
            drafted.
    """

    accept: AcceptInputs
    passed: Tensor
    behind: Tensor


class RedraftRule(NamedTuple):
    """How a window is drafted anew after verification.

    Attributes:
        keeps: from :class:`RedraftInputs` to bool [batch, queries]: the drafts that stay. All
            others are drawn from p.
        from_residual: drafts that failed the test are drawn from norm(max(0, p - q)) instead.
        keeps_draft_probs: drafts that stay keep their q too, instead of taking p for it.
        fixed_noise: tokens are drawn from p by Gumbel-max with noise that is fixed for each
            position.
    """

    keeps: Callable[[RedraftInputs], Tensor]
    from_residual: bool = False
    keeps_draft_probs: bool = False
    fixed_noise: bool = False


def none(inputs: RedraftInputs) -> Tensor:
    """No draft stays: all are fresh samples of p (SJD)."""
    return torch.zeros_like(inputs.behind)


def passed(inputs: RedraftInputs) -> Tensor:
    """Drafts that pass the test stay (MC-SJD).

    With ``from_residual`` this is the maximal coupling: a draft stays with probability
    1 - TV(p, q), the highest that any redraft with distribution p can reach.
    """
    return inputs.passed


REDRAFT_RULES: dict[str, RedraftRule] = {
    "fresh": RedraftRule(none),
    "coupled": RedraftRule(passed, from_residual=True),
    "gumbel": RedraftRule(none, fixed_noise=True),
    "threshold": RedraftRule(at_least_half_as_likely, keeps_draft_probs=True),
}
"""Rules by the name that the option ``redraft`` takes."""
