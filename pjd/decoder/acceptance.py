"""When is a draft accepted? The tests, by name (docs/method.md, section 6)."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pjd.errors import ParameterError, check_number


class AcceptInputs(NamedTuple):
    """What a test may look at. The last axis of p and q has one entry per token id.

    Attributes:
        target_probs: p, the distributions of this forward pass, float [batch, queries, ids].
        draft_probs: q, what the drafts were drawn from, float [batch, queries, ids].
        drafts: int64 [batch, queries], the drafted tokens.
        uniforms: fresh uniform numbers [batch, queries] in [0, 1).
        sampled: int64 [batch, queries], the tokens that would be drawn from p now.
        codebook: unit vectors of the codes, float [vocabulary, width].
        group_size: the largest number of tokens in a group.
        depth: int64 [batch, queries]; how many positions of its row a draft is behind the next
            one to be committed.
    """

    target_probs: Tensor
    draft_probs: Tensor
    drafts: Tensor
    uniforms: Tensor
    sampled: Tensor
    codebook: Tensor
    group_size: int
    depth: Tensor


class AcceptRule(NamedTuple):
    """A test, and what replaces the first draft that fails it.

    Attributes:
        accepts: from :class:`AcceptInputs` to bool [batch, queries].
        correction: "residual": a token drawn from norm(max(0, p - q)); "sampled": the token that
            was drawn from p.
        share: of p in the residual norm(max(0, share * p - q)), float [batch, queries]; None: 1.
    """

    accepts: Callable[[AcceptInputs], Tensor]
    correction: Literal["residual", "sampled"] = "residual"
    share: Callable[[AcceptInputs], Tensor] | None = None


def likelihood(distribution: Tensor, tokens: Tensor) -> Tensor:
    """Probability [...] of each of ``tokens`` int64 [...] under ``distribution`` [..., ids]."""
    return distribution.gather(-1, tokens[..., None]).squeeze(-1)


def ratio(inputs: AcceptInputs) -> Tensor:
    """Accept x with probability min(1, p(x) / q(x)) (SJD, PJD); never if p(x) is 0."""
    p = likelihood(inputs.target_probs, inputs.drafts)
    return inputs.uniforms * likelihood(inputs.draft_probs, inputs.drafts) < p


def match(inputs: AcceptInputs) -> Tensor:
    """Accept x if it is drawn again (Jacobi): exact for any x, fast where the noise is fixed."""
    return inputs.sampled == inputs.drafts


def group(inputs: AcceptInputs, near: float = 0.15, close: float = 0.5) -> Tensor:
    """Accept x with probability min(1, P(S) / Q(S)) for a group S of tokens around x (GSD).

    S is x and those of its neighbours in the order of p that differ from it by less than ``near``
    in probability and by less than ``close`` in squared distance of code vectors. Not exact.
    """
    p, q, drafts = inputs.target_probs, inputs.draft_probs, inputs.drafts
    order = p.argsort(dim=-1, descending=True, stable=True)
    rank = (order == drafts[..., None]).to(drafts.dtype).argmax(-1)
    half = inputs.group_size // 2
    step = rank.new_ones(2 * half + 1).cumsum(0) - 1 - half
    neighbour = rank[..., None] + step
    inside = (neighbour >= 0) & (neighbour < order.shape[-1])
    ids = order.gather(-1, neighbour.clamp(0, order.shape[-1] - 1))
    # A forced row-end token has no vector, and no group but itself.
    last_code = len(inputs.codebook) - 1
    vectors = inputs.codebook[ids.clamp(max=last_code)]
    own = inputs.codebook[drafts.clamp(max=last_code)][..., None, :]
    alike = (p.gather(-1, ids) - likelihood(p, drafts)[..., None]).abs() < near
    alike &= (vectors - own).square().sum(-1) < close
    alike &= (ids <= last_code) & (drafts <= last_code)[..., None]
    members = inside & (alike | (step == 0))
    mass_p = (p.gather(-1, ids) * members).sum(-1)
    mass_q = (q.gather(-1, ids) * members).sum(-1)
    return inputs.uniforms * mass_q < mass_p


def survival(inputs: AcceptInputs) -> Tensor:
    """How likely the drafts before each one are together, float [batch, queries].

    s_0 = 1 and s_i = min(1, s_{i-1} p(x_i) / q(x_i)), the p_i of block verification
    (arXiv 2403.10444, algorithm 2); the value at a query is that of the drafts before its own.
    """
    p = likelihood(inputs.target_probs, inputs.drafts).double()
    q = likelihood(inputs.draft_probs, inputs.drafts).double()
    # The recursion is a walk below 0 in logarithms: its sum, less how far that went above 0.
    walk = torch.where(q > 0, p.clamp(min=1e-300).log() - q.clamp(min=1e-300).log(), 0.0).cumsum(1)
    before = torch.cat([torch.zeros_like(walk[:, :1]), walk[:, :-1]], dim=1)
    return (before - before.clamp(min=0).cummax(1).values).exp().to(inputs.target_probs.dtype)


def block(inputs: AcceptInputs) -> Tensor:
    """Accept the longest beginning whose own test passes, all drafts together (block verification).

    Of i drafts it passes with probability S / (S + 1 - s_i), where S is the sum of
    max(0, s_i p - q) at the next position (arXiv 2403.10444, algorithm 2). It accepts at least as
    many as the ratio test on average and is exact, if drafts are samples of q of each other's
    making: one row of queries in order, redrawn after every forward pass.
    """
    is_draft = inputs.draft_probs.sum(-1) > 0
    share = survival(inputs)
    spare = (share[..., None] * inputs.target_probs - inputs.draft_probs).clamp_(min=0).sum(-1)
    passes = torch.where(share < 1, spare / (spare + 1 - share), 1.0)
    # The test of the drafts up to one's own stands at the next query.
    tested = is_draft[:, :-1] & (inputs.uniforms[:, :-1] <= passes[:, 1:])
    longest = tested.flip(1).cummax(1).values.flip(1)
    return torch.cat([longest, torch.zeros_like(is_draft[:, :1])], dim=1)


def lenient(lenience: float) -> AcceptRule:
    """Accept x with probability min(1, p(x) / (lenience * q(x))); never if p(x) is 0.

    Not exact below a lenience of 1: of a draft from q, a token may come up to 1 / lenience times as
    often as p has it (arXiv 2211.17192, appendix A.5). Coupled drafts stay by the same test.

    Args:
        lenience: from 1e-6 to 1, which is the ratio test.

    Raises:
        ParameterError: if it is outside that range.
    """
    lenience = check_number("lenience", lenience, 1e-6, 1)

    def accepts(inputs: AcceptInputs) -> Tensor:
        return ratio(inputs._replace(uniforms=inputs.uniforms * lenience))

    accepts.__name__ = f"lenient {lenience!r}"
    return AcceptRule(accepts)


ACCEPT_RULES: dict[str, AcceptRule] = {
    "ratio": AcceptRule(ratio),
    "match": AcceptRule(match, correction="sampled"),
    "group": AcceptRule(group),
    "block": AcceptRule(block, share=survival),
    "lenient": lenient(0.75),
}
"""Tests by the name that the option ``accept`` takes; it takes a rule itself too."""


def accept_rule(accept: str | AcceptRule) -> AcceptRule:
    """The rule that the option ``accept`` names, or is."""
    return ACCEPT_RULES[accept] if isinstance(accept, str) else accept


def rule_name(accept: str | AcceptRule) -> str:
    """What an option ``accept`` is called where options are recorded: no two rules alike.

    A rule of :data:`ACCEPT_RULES` is called by its test, such as "lenient 0.75", and so is another
    one that is no more than a test. A correction, a share and bound arguments are added.

    Raises:
        ParameterError: if a function of the rule cannot be told from another one.
    """
    rule = accept_rule(accept)
    told = [function_name(rule.accepts)]
    if rule not in ACCEPT_RULES.values():
        told += [] if rule.correction == "residual" else [f"correction {rule.correction}"]
        told += [] if rule.share is None else [f"share {function_name(rule.share)}"]
    return ", ".join(told)


def function_name(function: Callable[..., Tensor]) -> str:
    """A function's name, with its module unless that is this one, and arguments that are bound.

    Args:
        function: any; of a :class:`functools.partial` its arguments are named too.

    Raises:
        ParameterError: for a lambda, what has no name, and a function that depends on variables
            around it, unless it was given a name of its own, as those of :func:`lenient` are.
    """
    if isinstance(function, partial):
        bound = [*map(repr, function.args)]
        bound += [f"{name}={value!r}" for name, value in sorted(function.keywords.items())]
        return f"{function_name(function.func)}({', '.join(bound)})"
    name = getattr(function, "__name__", "<lambda>")
    written = getattr(function, "__qualname__", name)
    own_name = written != name and not written.endswith(f".{name}")
    if name == "<lambda>" or (getattr(function, "__closure__", None) and not own_name):
        allowed = "cannot be told from other rules: give the function a __name__ of its own"
        raise ParameterError("accept", function, allowed)
    told = name if own_name else written
    return told if function.__module__ == __name__ else f"{function.__module__}.{told}"
