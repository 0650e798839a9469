"""The public interface: prompts in, images out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pjd.decoder.config import LAST_SEED, DecodeConfig
from pjd.decoder.engine import Decoded, Engine
from pjd.decoder.grids import (
    at_same_place,
    check_same_codebook,
    followed_by,
    grids_of,
    tokens_of,
)
from pjd.decoder.methods import check_options, configure
from pjd.decoder.model import ImageModel, Prompt
from pjd.decoder.ordinary import ordinary_state
from pjd.decoder.trace import Trace
from pjd.errors import (
    ParameterError,
    check_integer,
    check_list,
    check_prompts,
    no_guidance,
    shown,
)

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass
class Result:
    """Images of all prompts, in the order of the prompts.

    Attributes:
        images: PIL images.
        tokens: int64 [prompts, R * C], the codes of each image: those of the last grid, where the
            model writes several.
        steps: int64 [prompts], forward passes that each image needed, of all grids; prefills are
            not counted, and every grid has one.
        seconds: wall-clock of decoding, prefills included, pixels not.
        trace: what happened in each iteration of the last grid.
        config: the options that were used.
        previews: codes of the grids before the last, in their order, each int64 [prompts, R * C].
    """

    images: "list[Image]"
    tokens: Tensor
    steps: Tensor
    seconds: float
    trace: Trace
    config: DecodeConfig
    previews: tuple[Tensor, ...] = ()


def check_fit(config: DecodeConfig, model: ImageModel) -> None:
    """Check the options that depend on the model, before anything is computed.

    Raises:
        ParameterError: naming the option, its value and what is allowed.
    """
    grids = [one.grid for one in grids_of(model)]
    rows, length = max(grid.rows for grid in grids), max(grid.length for grid in grids)
    config.check_sizes(model.vocabulary, rows, length)
    if config.guided and not model.takes_guidance:
        raise no_guidance(model.name, config.guidance)
    if config.initial == "preview":
        check_same_codebook(model, "initial", config.initial)


def check_model(model: object) -> None:
    """Raise :class:`ParameterError` if ``model`` is no model, such as the name of one."""
    if not all(hasattr(model, part) for part in ("grid", "vocabulary", "encode")):
        name = model if isinstance(model, str) else "emoji"
        raise ParameterError("model", model, f"must be a model, such as pjd.load({name!r})")


def check_seeds(seeds: Sequence[int] | None, first_seed: int | None = None) -> None:
    """Check the seeds of images, without knowing how many there are.

    Args:
        seeds: one per image; or None.
        first_seed: of the first image, in place of ``seeds``; or None.

    Raises:
        ParameterError: unless ``seeds`` is a list of integers, 0 to 2**62, or if both are given.
    """
    if seeds is None:
        return
    check_list("seeds", seeds, "integers, such as [0, 7]")
    for seed in seeds:
        check_integer("seed", seed, 0, LAST_SEED)
    if first_seed is not None:
        allowed = f"must not be given beside seeds = {shown(seeds)}: give one of them"
        raise ParameterError("seed", first_seed, allowed)


def check_seed_range(first_seed: int, count: int) -> None:
    """Raise :class:`ParameterError` if the last of ``count`` images from ``first_seed`` has none.

    Args:
        first_seed: 0 to :data:`LAST_SEED`.
        count: number of images, whose seeds follow each other; at least 1.
    """
    most = LAST_SEED + 1 - count
    if first_seed > most:
        allowed = f"must be at most {most}: {count} images have seeds from it on, to {LAST_SEED}"
        raise ParameterError("seed", first_seed, allowed)


def seeds_of(seeds: Sequence[int] | None, first_seed: int, count: int) -> Tensor:
    """Seeds of ``count`` images, int64 [count]: ``seeds``, or ``first_seed`` and those after it.

    Raises:
        ParameterError: if there are not ``count``, or see :func:`check_seeds` and
            :func:`check_seed_range`.
    """
    if seeds is None:
        check_seed_range(first_seed, count)
        return first_seed + torch.arange(count)
    check_seeds(seeds)
    if len(seeds) != count:
        raise ParameterError("seeds", list(seeds), f"must be {count}, one per prompt")
    return torch.tensor([int(seed) for seed in seeds])


Progress = Callable[[float, int, float], None]
"""Called every few iterations of a batch: images completed since the last call (a fraction counts),
forward passes so far, and tokens per image and forward pass."""


class EngineProgress:
    """Adapts a function to the callback of the engines that decode one batch, grid by grid.

    Args:
        tell: the function.
        images: of the batch.
        length: tokens of all grids of an image.
    """

    def __init__(self, tell: Progress, images: int, length: int) -> None:
        """Begin with the first grid."""
        self.tell, self.images, self.length = tell, images, length
        self.committed = self.steps = self.steps_before = 0

    def next_grid(self) -> None:
        """From now on another engine calls, which counts its own steps."""
        self.steps_before = self.steps

    def __call__(self, tokens: int, steps: int) -> None:
        """What an engine calls, see :meth:`pjd.decoder.engine.Engine.run`."""
        self.committed += tokens
        self.steps = self.steps_before + steps
        self.tell(tokens / self.length, self.steps, self.committed / self.images / self.steps)


def advance_bar(bar: tqdm, length: int, images: float, steps: int, pace: float) -> None:
    """Advance a bar that counts the tokens of images of ``length`` tokens."""
    bar.update(round(images * length))
    bar.set_postfix(steps=steps, tokens_per_step=f"{pace:.1f}")


def generate(
    model: ImageModel,
    prompts: list[str],
    method: str = "pjd",
    *,
    batch_size: int = 64,
    seeds: Sequence[int] | None = None,
    progress: bool | Progress = False,
    **options: Any,
) -> Result:
    """Generate one image per prompt.

    Args:
        model: from :func:`pjd.load`.
        prompts: a list of captions; of empty texts for a model that takes no prompts.
        method: a key of :data:`pjd.decoder.methods.PRESETS`.
        batch_size: images decoded together. In single precision results do not depend on it; in 16
            bits another width of the forward pass rounds otherwise, which changes some draws.
        seeds: a list of integers, one per image, in place of the option ``seed``; None: image i has
            that one plus i.
        progress: show a progress bar; or a function to call instead, see :data:`Progress`.
        options: of :class:`pjd.decoder.config.DecodeConfig`, such as ``context=4, seed=0``. An
            option that is not given, or is None, has the model's own default or, if it has none,
            the method's.

    Raises:
        ParameterError: before anything is computed, if an option or a prompt is not allowed.
        LogitsError: if the model's logits are no finite numbers.
    """
    check_model(model)
    # Before the number of columns stands beside them, which is no option.
    check_options(options)
    check_seeds(seeds, options.get("seed"))
    # None stands for "not given": it must not hide the model's own default.
    given = {name: value for name, value in options.items() if value is not None}
    options = {**model.sampling, **given}
    config = configure(method, columns=model.grid.columns, **options)
    return decode(model, prompts, config, batch_size=batch_size, seeds=seeds, progress=progress)


def decode_grids(
    model: ImageModel, prompt: Prompt, config: DecodeConfig, seeds: Tensor, progress: EngineProgress
) -> list[Decoded]:
    """Decode a batch: all grids of its images, one after the other.

    Args:
        model: of the last grid.
        prompt: encoded by the model of the first one.
        config: the method and its options.
        seeds: of the images, int64 [batch].
        progress: is told about all grids.
    """
    parts: list[Decoded] = []
    preview = None
    for number, one in enumerate(grids_of(model)):
        if one.before is not None:
            codes = parts[-1].tokens
            with torch.inference_mode():
                prompt = followed_by(one.before, prompt, codes)
            preview = at_same_place(codes, one.before.grid, one.grid)
            progress.next_grid()
        engine = Engine(one, config, prompt, seeds, number=number, preview=preview)
        parts.append(engine.run(progress))
    return parts


@ordinary_state()
def decode(
    model: ImageModel,
    prompts: list[str],
    config: DecodeConfig,
    *,
    batch_size: int = 64,
    seeds: Sequence[int] | None = None,
    progress: bool | Progress = False,
) -> Result:
    """Generate one image per prompt, as ``config`` says; see :func:`generate`.

    Raises:
        ParameterError: before anything is computed, if an option or a prompt is not allowed.
        LogitsError: if the model's logits are no finite numbers.
    """
    batch_size = check_integer("batch_size", batch_size, 1)
    check_model(model)
    check_fit(config, model)
    check_prompts(prompts, model.takes_prompts)
    numbers = seeds_of(seeds, config.seed, len(prompts))
    length, first = tokens_of(model), grids_of(model)[0]
    parts = []
    with tqdm(
        total=len(prompts) * length, desc=config.method, unit="token", disable=progress is not True
    ) as bar:
        tell = progress if callable(progress) else partial(advance_bar, bar, length)
        for offset in range(0, len(prompts), batch_size):
            batch = prompts[offset : offset + batch_size]
            prompt = first.encode(batch, config.guided)
            told = EngineProgress(tell, len(batch), length)
            own = numbers[offset : offset + batch_size]
            parts.append(decode_grids(model, prompt, config, own, told))
    *previews, tokens = (torch.cat([p.tokens for p in grid]) for grid in zip(*parts, strict=True))
    traces = [Trace.join([part.trace for part in grid]) for grid in zip(*parts, strict=True)]
    return Result(
        images=pictures(model, tokens, batch_size),
        tokens=tokens.cpu(),
        steps=torch.stack([trace.steps for trace in traces]).sum(0),
        seconds=sum(part.seconds for batch in parts for part in batch),
        trace=traces[-1],
        config=config,
        previews=tuple(codes.cpu() for codes in previews),
    )


def pixels(model: ImageModel, tokens: Tensor, batch_size: int = 64) -> Tensor:
    """Pixels uint8 [images, H, W, 3], on the CPU, of codes int64 [images, R * C]."""
    parts = tokens.to(model.device).split(batch_size)
    return torch.cat([model.decode(part).cpu() for part in parts])


def pictures(model: ImageModel, tokens: Tensor, batch_size: int = 64) -> "list[Image]":
    """PIL images of codes int64 [images, R * C]."""
    from PIL import Image

    return [Image.fromarray(image.numpy()) for image in pixels(model, tokens, batch_size)]
