"""Replayed acceptance: a model of random weights accepts as many drafts as a real one did."""

from collections.abc import Sequence
from pathlib import Path

import torch

import pjd
from benchmarks.shapes import llamagen
from pjd.decoder.acceptance import RULES, Evidence, Rule
from pjd.decoder.methods import PRESETS, configure
from pjd.models.llamagen import LlamaGenConfig
from pjd.pipeline.prompts import read

RECORD = Path(__file__).parent / "acceptance.json"


def tests_drafts(method: str) -> bool:
    """Whether a method ever tests a draft; only then is there an acceptance to replay."""
    config = configure(method)
    # Adaptive ZipAR feeds no drafts, but tests the first code of a row before the row may start.
    return config.window > 1 or config.start == "adaptive"


def record(model: str, images: int, context: int) -> dict[str, list[float]]:
    """Share of the tested drafts that was accepted at each depth, by method that tests any.

    Args:
        model: an embedded model.
        images: how many to decode with each method; image i has seed i.
        context: context tokens c of the methods on rows.
    """
    loaded = pjd.load(model)
    captions = read("emoji", images).prompt.tolist()
    shares = {}
    for method, preset in PRESETS.items():
        if not tests_drafts(method):
            continue
        options = {"context": context} if preset["view"] == "rows" else {}
        result = pjd.generate(loaded, captions, method=method, progress=True, **options)
        depths = result.trace.depths
        share = depths.accepted / depths.tested.clip(lower=1)
        shares[method] = [round(float(value), 4) for value in share]
    return shares


def replay(shares: Sequence[float], device: torch.device | str, rule: str = "ratio") -> str:
    """Make the rule that keeps a draft at depth d with probability ``shares[d]``.

    Args:
        shares: probabilities by depth; deeper drafts have the last one.
        device: where drafts are verified.
        rule: the method's own, a key of :data:`pjd.decoder.acceptance.RULES`. It is
            computed, for its time, and corrects what is rejected; only its answers are replaced.

    Returns:
        The rule's name, for the option ``accept``.
    """
    share = torch.tensor(shares, device=device)
    own = RULES[rule]

    def keeps(evidence: Evidence) -> torch.Tensor:
        own.keeps(evidence)
        return evidence.coins < share[evidence.depth.clamp(max=len(shares) - 1)]

    RULES["replayed"] = Rule(keeps, own.correction)
    return "replayed"


def replayed_steps(
    side: int, method: str, context: int | None, shares: Sequence[float], images: int = 8
) -> float:
    """Mean steps on a grid that no model at hand has, were drafts accepted as ``shares`` say.

    Args:
        side: rows and columns of codes.
        method: a preset.
        context: context tokens c, for the methods on rows.
        shares: see :func:`replay`.
        images: how many; image i has seed i.
    """
    model = llamagen(LlamaGenConfig(16, 1, 2, 64, side, 4, 8), "cpu", torch.float32, None)
    options = {} if context is None else {"context": context}
    rule = replay(shares, "cpu", configure(method).accept)
    result = pjd.generate(model, ["cat"] * images, method, guidance=1.0, accept=rule, **options)
    return float(result.steps.double().mean())
