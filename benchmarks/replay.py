"""Replayed acceptance: a model of random weights accepts as many drafts as a real one did."""

from collections.abc import Sequence
from pathlib import Path

import torch

import pjd
from pjd.prompts import read
from pjd.rules import RULES, Evidence, Rule

RECORD = Path(__file__).parent / "acceptance.json"


def record(model: str, images: int, context: int) -> dict[str, list[float]]:
    """Share of the tested drafts that was accepted at each depth, by method.

    Args:
        model: an embedded model.
        images: how many to decode with each method; image i has seed i.
        context: context tokens c of the methods on rows.
    """
    loaded = pjd.load(model)
    captions = read("emoji", images).prompt.tolist()
    shares = {}
    for method, options in (
        ("sjd", {}),
        ("mc-sjd", {}),
        ("pjd", {"context": context}),
        ("pjd-plus", {"context": context}),
    ):
        result = pjd.generate(loaded, captions, method=method, progress=True, **options)
        depths = result.trace.depths
        share = depths.accepted / depths.tested.clip(lower=1)
        shares[method] = [round(float(value), 4) for value in share]
    return shares


def replay(shares: Sequence[float], device: torch.device | str) -> str:
    """Make the rule that keeps a draft at depth d with probability ``shares[d]``.

    Args:
        shares: probabilities by depth; deeper drafts have the last one.
        device: where drafts are verified.

    Returns:
        The rule's name, for the option ``accept``.
    """
    share = torch.tensor(shares, device=device)

    def keeps(evidence: Evidence) -> torch.Tensor:
        return evidence.coins < share[evidence.depth.clamp(max=len(shares) - 1)]

    RULES["replayed"] = Rule(keeps)
    return "replayed"
