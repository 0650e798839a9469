"""The public interface: prompts in, images out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pjd.decoder.config import DecodeConfig
from pjd.decoder.engine import Engine
from pjd.decoder.methods import configure
from pjd.decoder.model import ImageModel
from pjd.decoder.trace import Trace
from pjd.errors import ParameterError, check_integer

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass
class Result:
    """Images of all prompts, in the order of the prompts.

    Attributes:
        images: PIL images.
        tokens: int64 [prompts, R * C], the codes of each image.
        steps: int64 [prompts], forward passes that each image needed, prefill not counted.
        seconds: wall-clock of decoding, prefill included, pixels not.
        trace: what happened in each iteration.
        config: the options that were used.
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
    """Raise :class:`ParameterError` if there are no prompts, or one is not a text or is blank."""
    if not prompts:
        raise ParameterError("prompts", prompts, "must hold at least one prompt")
    for prompt in prompts:
        if not isinstance(prompt, str) or not prompt.strip():
            raise ParameterError("prompt", prompt, "must be a text that is not empty")


def check_seeds(seeds: Sequence[int] | None, first_seed: int, count: int) -> Tensor:
    """Seeds of ``count`` images, int64 [count]: ``seeds``, or ``first_seed`` and those after it.

    Raises:
        ParameterError: if there are not ``count``, or one is not an integer from 0 to 2**62.
    """
    if seeds is None:
        return first_seed + torch.arange(count)
    if len(seeds) != count:
        raise ParameterError("seeds", list(seeds), f"must be {count}, one per prompt")
    for seed in seeds:
        check_integer("seed", seed, 0, 2**62)
    return torch.tensor(seeds)


Progress = Callable[[float, int, float], None]
"""Called every few iterations of a batch: images completed since the last call (a fraction counts),
forward passes so far, and tokens per image and forward pass."""


def engine_progress(tell: Progress, images: int, length: int) -> Callable[[int, int], None]:
    """Adapt ``tell`` to the engine's callback, which counts the tokens of ``images`` images."""
    committed = 0

    def progress(tokens: int, steps: int) -> None:
        nonlocal committed
        committed += tokens
        tell(tokens / length, steps, committed / images / steps)

    return progress


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
        prompts: the captions.
        method: a key of :data:`pjd.decoder.methods.PRESETS`.
        batch_size: images decoded together; results do not depend on it.
        seeds: one per image; None: image i has the option ``seed`` plus i.
        progress: show a progress bar; or a function to call instead, see :data:`Progress`.
        options: of :class:`pjd.decoder.config.DecodeConfig`, such as ``context=4, seed=0``. An
            option that is not given, or is None, has the model's own default or, if it has none,
            the method's.

    Raises:
        ParameterError: before anything is computed, if an option or a prompt is not allowed.
    """
    # None stands for "not given": it must not hide the model's own default.
    given = {name: value for name, value in options.items() if value is not None}
    config = configure(method, **{**model.sampling, **given})
    return decode(model, prompts, config, batch_size=batch_size, seeds=seeds, progress=progress)


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
    """
    check_integer("batch_size", batch_size, 1)
    check(config, model, prompts)
    numbers = check_seeds(seeds, config.seed, len(prompts))
    length = model.grid.length
    parts = []
    with tqdm(
        total=len(prompts) * length, desc=config.method, unit="token", disable=progress is not True
    ) as bar:
        tell = progress if callable(progress) else partial(advance_bar, bar, length)
        for offset in range(0, len(prompts), batch_size):
            batch = prompts[offset : offset + batch_size]
            prompt = model.encode(batch, config.guided)
            engine = Engine(model, config, prompt, numbers[offset : offset + batch_size])
            parts.append(engine.run(engine_progress(tell, len(batch), length)))
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
    """Pixels uint8 [images, H, W, 3], on the CPU, of codes int64 [images, R * C]."""
    parts = tokens.to(model.device).split(batch_size)
    return torch.cat([model.decode(part).cpu() for part in parts])


def pictures(model: ImageModel, tokens: Tensor, batch_size: int = 64) -> "list[Image]":
    """PIL images of codes int64 [images, R * C]."""
    from PIL import Image

    return [Image.fromarray(image.numpy()) for image in pixels(model, tokens, batch_size)]
