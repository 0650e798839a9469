"""The public door: prompts in, images out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pjd.decoder.config import DecodeConfig, ParameterError, check_integer
from pjd.decoder.engine import Engine
from pjd.decoder.methods import configure
from pjd.decoder.model import ImageModel
from pjd.decoder.trace import Trace

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass
class Result:
    """Images of all prompts, in order.

    Attributes:
        images: PIL images.
        tokens: int64 [prompts, R * C], image codes.
        steps: int64 [prompts], model forwards each image needed, prefill not counted.
        seconds: wall-clock of decoding, prefill included, pixels not.
        trace: what happened in each iteration.
        config: the options that ran.
    """

    images: "list[Image]"
    tokens: Tensor
    steps: Tensor
    seconds: float
    trace: Trace
    config: DecodeConfig


def check(config: DecodeConfig, model: ImageModel, prompts: list[str]) -> None:
    """Check what depends on the model and the prompts, before anything is computed.

    Raises:
        ParameterError: naming the parameter, its value and what is allowed.
    """
    check_integer("top_k", config.top_k, 0, model.vocabulary)
    if config.rows is not None:
        check_integer("rows", config.rows, 1, model.grid.rows)
    check_prompts(prompts)


def check_prompts(prompts: list[str]) -> None:
    """Raise :class:`ParameterError` unless there are prompts, each a text that is not empty."""
    if not prompts:
        raise ParameterError("prompts", prompts, "must hold at least one prompt")
    for prompt in prompts:
        if not isinstance(prompt, str) or not prompt.strip():
            raise ParameterError("prompt", prompt, "must be a text that is not empty")


def check_seeds(seeds: Sequence[int] | None, first: int, count: int) -> Tensor:
    """Seeds of ``count`` images, int64 [count]: ``seeds``, or ``first`` and those after it.

    Raises:
        ParameterError: if there are not ``count``, or one is no integer of 0 to 2**62.
    """
    if seeds is None:
        return first + torch.arange(count)
    if len(seeds) != count:
        raise ParameterError("seeds", list(seeds), f"must be {count}, one a prompt")
    for seed in seeds:
        check_integer("seed", seed, 0, 2**62)
    return torch.tensor(seeds)


Progress = Callable[[float, int, float], None]
"""Told now and then of a batch: how many images more are done (a part of one, that is), forwards
so far, and codes that an image gained in each of them."""


def follow(tell: Progress, images: int, length: int) -> Callable[[int, int], None]:
    """What an engine tells of ``images`` of ``length`` codes, so that ``tell`` is told."""
    gained = 0

    def follower(codes: int, forwards: int) -> None:
        nonlocal gained
        gained += codes
        tell(codes / length, forwards, gained / images / forwards)

    return follower


def show(bar: tqdm, length: int, images: float, forwards: int, pace: float) -> None:
    """Move on a bar that counts the codes of images of ``length`` codes."""
    bar.update(round(images * length))
    bar.set_postfix(steps=forwards, codes_per_step=f"{pace:.1f}")


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
    """Generate one image a prompt.

    Args:
        model: from :func:`pjd.load`.
        prompts: the captions.
        method: a key of :data:`pjd.decoder.methods.PRESETS`.
        batch_size: images decoded together; no result depends on it.
        seeds: one an image; None: the option ``seed`` for the first, one more for each further.
        progress: show a progress bar; or what to tell of progress instead.
        options: of :class:`pjd.decoder.config.DecodeConfig`, such as ``context=4, seed=0``;
            what is not given is the model's own default, then the method's.

    Raises:
        ParameterError: before anything is computed, if an option or a prompt is not allowed.
    """
    check_integer("batch_size", batch_size, 1)
    # None stands for "not given": it must not hide the model's own default.
    given = {name: value for name, value in options.items() if value is not None}
    config = configure(method, **{**model.sampling, **given})
    check(config, model, prompts)
    numbers = check_seeds(seeds, config.seed, len(prompts))
    parts = []
    length = model.grid.length
    with tqdm(
        total=len(prompts) * length, desc=method, unit="code", disable=progress is not True
    ) as bar:
        tell = progress if callable(progress) else partial(show, bar, length)
        for first in range(0, len(prompts), batch_size):
            chunk = slice(first, first + batch_size)
            engine = Engine(model, config, prompts[chunk], numbers[chunk])
            parts.append(engine.run(follow(tell, len(prompts[chunk]), length)))
    tokens = torch.cat([part.tokens for part in parts])
    trace = Trace.join([part.trace for part in parts])
    return Result(
        images=pictures(model, tokens, batch_size),
        tokens=tokens.cpu(),
        steps=trace.steps,
        seconds=sum(part.seconds for part in parts),
        trace=trace,
        config=config,
    )


def pixels(model: ImageModel, tokens: Tensor, batch_size: int = 64) -> Tensor:
    """Pixels uint8 [images, H, W, 3], on the CPU, of image codes int64 [images, R * C]."""
    parts = tokens.to(model.device).split(batch_size)
    return torch.cat([model.decode(part).cpu() for part in parts])


def pictures(model: ImageModel, tokens: Tensor, batch_size: int = 64) -> "list[Image]":
    """PIL images of image codes int64 [images, R * C]."""
    from PIL import Image

    return [Image.fromarray(image.numpy()) for image in pixels(model, tokens, batch_size)]
