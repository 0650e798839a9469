"""Every option of a decoder, in one frozen and checked record.

No torch here: the command line checks options before it imports anything heavy.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from pjd.errors import ParameterError, check_choice, check_integer, check_number

if TYPE_CHECKING:
    from pjd.decoder.acceptance import AcceptRule

Layout = Literal["raster", "rows"]
Mask = Literal["row-causal", "none", "released"]
Accept = Literal["ratio", "match", "group", "block", "lenient"]
Resample = Literal["every-row", "top-row"]
Start = Literal["context", "adaptive"]
Lag = Literal["at-start", "fixed"]
DraftLimit = Literal["row-above", "window", "released"]
StandIn = Literal["newest", "last-column", "above"]
Initial = Literal["random", "uniform", "repeat-left", "repeat-above", "sample-above", "preview"]
Redraft = Literal["fresh", "coupled", "gumbel", "threshold"]
Finish = Literal["aligned", "released"]

MOST = 2**20
"""No window, context or number of rows or tokens is larger: above, integers of tensors overflow."""

LAST_SEED = 2**62
"""The largest seed that an image may have."""

CHOICES: dict[str, tuple[str, ...]] = {
    "layout": get_args(Layout),
    "start": get_args(Start),
    "lag": get_args(Lag),
    "draft_limit": get_args(DraftLimit),
    "stand_in": get_args(StandIn),
    "mask": get_args(Mask),
    "initial": get_args(Initial),
    "accept": get_args(Accept),
    "redraft": get_args(Redraft),
    "resample": get_args(Resample),
    "finish": get_args(Finish),
}
"""The options that are words, and the words that each may be."""


@dataclass(frozen=True)
class DecodeConfig:
    """What a decoder does: the choices of the method, and how tokens are sampled.

    Use :func:`pjd.decoder.methods.configure` to make one from a method's name. docs/method.md
    explains each choice; its glossary defines the words.

    Attributes:
        method: the name of the preset, for labels only.
        layout: "raster": the image is one row of R*C tokens (AR, SJD); "rows": it is R rows of C
            tokens, and several are active at once (ZipAR, PJD).
        window: positions that one forward pass predicts in each active row: the last committed
            token and up to ``window - 1`` drafts are fed. At least 1.
        context: tokens that the row above must have committed before a row starts (the paper's
            context tokens c). None in the raster layout; a value above C means the whole row.
        rows: the largest number of rows that are active at once; None: no limit.
        start: "context": a row starts as soon as the row above has ``context`` tokens;
            "adaptive": its first token is then drafted, and the row starts once that draft is
            accepted (adaptive ZipAR).
        lag: "at-start": ``context`` is enforced only when a row starts; later the row may come
            up to the row above (the paper). "fixed": it is enforced for every token. The token at
            column j then sees exactly the columns before j + k*c of the k-th row above, and waits
            for them: the staircase model M_c (docs/method.md, section 7).
        draft_limit: how far a row drafts. "row-above": no further than it may commit; "window":
            to the end of its window, past the row above; "released": one token less than it may
            commit (docs/method.md, section 8).
        stand_in: the input that starts a row before the row above is complete, in a format
            without row-end tokens. "newest": the last committed token of the row above (the
            paper); "last-column": the last token of the nearest complete row, or the newest one
            where no row is complete; "above": the token above the first column.
        mask: who sees a draft. "row-causal": its own row only; "none": every later row;
            "released": the rows that the released code leaves unprotected (docs/method.md,
            section 8).
        initial: the first draft of a position. "random": a random token, declared as certain;
            "uniform": a random token, declared as uniform; "repeat-left": the token to its left;
            "repeat-above": the committed token above it; "sample-above": drawn from the draft
            distribution above it, and declared so; "preview": the code at the same place of the
            grid before, for models of several grids. Where there is none of these: uniform for
            "sample-above", else random.
        accept: the test of a draft: the name of one of
            :data:`pjd.decoder.acceptance.ACCEPT_RULES`, or such a rule itself.
        group_size: G; a group has a token and at most G // 2 neighbours on either side, for
            ``accept`` "group"; at least 1.
        redraft: what the drafts behind the first rejection become, one of
            :data:`pjd.decoder.redraft.REDRAFT_RULES`.
        resample: which rows commit a token drawn from the residual at their first rejection, or
            an extra token after a fully accepted window: "every-row", or the "top-row" only (the
            paper).
        finish: in the iteration after a row is finished, drafts are tested against their own
            distributions ("aligned"), or against those one position later ("released",
            docs/method.md, section 8).
        guidance: scale of classifier-free guidance, from 0 to 1000; 1 = off.
        temperature: 0 (greedy), or from 1e-6 to 1e6.
        top_k: sample only among the k likeliest tokens; 0 = all.
        top_p: sample only among the likeliest tokens of this total probability; in (0, 1].
        min_p: sample only among tokens that are at least this share as likely as the likeliest
            one; from 0 to 1, 0 = all.
        seed: of the first image; image i has seed + i. From 0 to 2**62, that of the last one too.

    Raises:
        ParameterError: if an option is outside its range.
    """

    method: str
    layout: Layout
    window: int
    context: int | None = None
    rows: int | None = None
    start: Start = "context"
    lag: Lag = "at-start"
    draft_limit: DraftLimit = "row-above"
    stand_in: StandIn = "newest"
    mask: Mask = "row-causal"
    initial: Initial = "random"
    accept: Accept | AcceptRule = "ratio"
    group_size: int = 1
    redraft: Redraft = "fresh"
    resample: Resample = "every-row"
    finish: Finish = "aligned"
    guidance: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every option, and keep numbers of NumPy as those of Python."""
        for name, choices in CHOICES.items():
            # A rule of one's own is called with tensors; its name is all that can be checked here.
            if not (name == "accept" and hasattr(self.accept, "accepts")):
                check_choice(name, getattr(self, name), choices)
        self._keep_integer("window", 1, MOST)
        self._keep_integer("group_size", 1, MOST)
        if self.accept == "match" and self.redraft not in ("fresh", "gumbel"):
            allowed = "must be fresh or gumbel where a draft is kept if it is drawn again"
            raise ParameterError("redraft", self.redraft, allowed)
        if self.accept == "block" and (self.layout, self.redraft) != ("raster", "fresh"):
            allowed = "block needs layout raster and redraft fresh: elsewhere it is not exact"
            raise ParameterError("accept", self.accept, allowed)
        fits = (self.layout, self.mask, self.start) == ("rows", "row-causal", "context")
        if self.lag == "fixed" and not fits:
            allowed = "fixed needs rows, mask row-causal and start context: it has one fixed target"
            raise ParameterError("lag", self.lag, allowed)
        if self.layout == "raster":
            for name in ("context", "rows"):
                if getattr(self, name) is not None:
                    allowed = f"method {self.method} has no such option: its image is one row"
                    raise ParameterError(name, getattr(self, name), allowed)
        else:
            self._keep_integer("context", 1, MOST)
            if self.rows is not None:
                self._keep_integer("rows", 1, MOST)
        self._keep_number("guidance", 0, 1000)
        # Below the smallest of these, logits divided by it would not be finite.
        self._keep_number("temperature", 1e-6, 1e6, or_zero=True)
        self._keep_integer("top_k", 0, MOST)
        self._keep_number("top_p", 1e-6, 1)
        self._keep_number("min_p", 0, 1)
        self._keep_integer("seed", 0, LAST_SEED)

    def _keep_integer(self, name: str, least: int, most: int) -> None:
        """Check the integer ``name``, see :func:`pjd.errors.check_integer`."""
        object.__setattr__(self, name, check_integer(name, getattr(self, name), least, most))

    def _keep_number(self, name: str, least: float, most: float, or_zero: bool = False) -> None:
        """Check the number ``name``, see :func:`pjd.errors.check_number`."""
        value = check_number(name, getattr(self, name), least, most, or_zero)
        object.__setattr__(self, name, value)

    def check_sizes(self, vocabulary: int | None, rows: int, length: int | None) -> None:
        """Check the options that depend on the sizes of a model.

        Args:
            vocabulary: number of codes; None: not known, and not checked.
            rows: of the largest grid: more than a small grid has are all of its rows.
            length: tokens of the largest grid; None: not known, and not checked.

        Raises:
            ParameterError: naming the option, its value and what is allowed.
        """
        if vocabulary is not None:
            check_integer("top_k", self.top_k, 0, vocabulary)
        if self.rows is not None:
            check_integer("rows", self.rows, 1, rows)
        if length is not None:
            # A preset's own window may be longer than a small image; a longer one would only take
            # memory.
            check_integer("window", self.window, 1, max(64, length))

    @classmethod
    def names(cls) -> set[str]:
        """Names of all options."""
        return {field.name for field in fields(cls)}

    @property
    def guided(self) -> bool:
        """Whether guidance is on: every forward pass then has an unconditional branch too."""
        return self.guidance != 1

    def as_dict(self) -> dict[str, Any]:
        """All options, for a provenance stamp; a rule of one's own by its functions.

        Raises:
            ParameterError: for a rule that cannot be named, see
                :func:`pjd.decoder.acceptance.rule_name`.
        """
        options = {field.name: getattr(self, field.name) for field in fields(self)}
        if not isinstance(self.accept, str):
            # It is given, so torch, which the command line must not wait for, is imported already.
            from pjd.decoder.acceptance import rule_name

            options["accept"] = rule_name(self.accept)
        return options

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that differ whenever an option differs."""
        # It imports torch, which the command line must not wait for.
        from pjd.decoder.acceptance import rule_name

        # A rule that has a name is the same by its name.
        options = {**self.as_dict(), "accept": rule_name(self.accept)}
        text = json.dumps(options, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]
