"""A run on the cores of a CPU: one process per core, one thread each."""

import multiprocessing
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from pjd.api import Result, check_fit, decode
from pjd.decoder.config import DecodeConfig
from pjd.decoder.model import ImageModel
from pjd.decoder.trace import Trace
from pjd.errors import check_integer, check_prompts

SHARED: dict[str, Any] = {}
"""What a process of :func:`decode_on_cores` was started with."""


def begin(model: ImageModel, config: DecodeConfig) -> None:
    """Make ready a process that was forked."""
    torch.set_num_threads(1)
    SHARED.update(model=model, config=config)


class Part(NamedTuple):
    """A decoded batch on its way between processes, without tensors: each would be a shared file.

    Attributes:
        images: PIL images.
        tokens: int64 [prompts, R * C].
        previews: those of earlier grids.
        steps: int64 [prompts].
        columns: tokens per row in the layout of the trace.
        trace: the arrays of a :class:`pjd.decoder.trace.Trace`, by name.
    """

    images: list[Any]
    tokens: np.ndarray
    previews: list[np.ndarray]
    steps: np.ndarray
    columns: int
    trace: dict[str, np.ndarray]

    def restored(self) -> Trace:
        """The trace, in tensors."""
        return Trace(self.columns, **{k: torch.from_numpy(v) for k, v in self.trace.items()})


def one_batch(prompts: list[str], seed: int) -> Part:
    """Decode a batch whose first image has ``seed``."""
    seeds = [seed + index for index in range(len(prompts))]
    model, config = SHARED["model"], SHARED["config"]
    result = decode(model, prompts, config, batch_size=len(prompts), seeds=seeds)
    arrays = {k: v.numpy() for k, v in vars(result.trace).items() if isinstance(v, torch.Tensor)}
    previews = [codes.numpy() for codes in result.previews]
    steps, columns = result.steps.numpy(), result.trace.columns
    return Part(result.images, result.tokens.numpy(), previews, steps, columns, arrays)


def joined(arrays: Iterable[np.ndarray]) -> torch.Tensor:
    """One tensor of arrays, one after the other."""
    return torch.from_numpy(np.concatenate(list(arrays)))


def decode_on_cores(
    model: ImageModel, prompts: list[str], config: DecodeConfig, batch_size: int, cores: int
) -> Result:
    """Generate one image per prompt, in batches that several processes share out.

    Threads of one process wait for each other after every operation, and for whatever else runs on
    their cores; processes wait once, at the end. So two of them are up to 1.5 times as fast as one
    with two threads. A model that is not on a CPU is not copied: it decodes by itself.

    Args:
        model: from :func:`pjd.load`.
        prompts: a list of captions; image i has the seed ``config.seed`` + i.
        config: the method and its options.
        batch_size: images decoded together, at most.
        cores: processes.

    Returns:
        The result of :func:`pjd.api.decode`; ``seconds`` are those from the first batch to the
        last, pictures included.

    Raises:
        ParameterError: before anything is computed, if an option or a prompt is not allowed.
        LogitsError: if the model's logits are no finite numbers.
    """
    check_integer("batch_size", batch_size, 1)
    check_integer("cores", cores, 1, 1024)
    check_fit(config, model)
    check_prompts(prompts, model.takes_prompts)
    if cores == 1 or model.device.type != "cpu":
        return decode(model, prompts, config, batch_size=batch_size, progress=True)
    size = min(batch_size, -(-len(prompts) // cores))
    starts = range(0, len(prompts), size)
    # A process that is forked has the model, and loads nothing.
    context = multiprocessing.get_context("fork")
    began = time.perf_counter()
    with ProcessPoolExecutor(cores, context, begin, (model, config)) as pool:
        batches = [pool.submit(one_batch, prompts[s : s + size], config.seed + s) for s in starts]
        told = f"{config.method}, batches of {size}"
        parts = [batch.result() for batch in tqdm(batches, desc=told)]
    return Result(
        images=[image for part in parts for image in part.images],
        tokens=joined(part.tokens for part in parts),
        steps=joined(part.steps for part in parts),
        seconds=time.perf_counter() - began,
        trace=Trace.join([part.restored() for part in parts]),
        config=config,
        previews=tuple(joined(grid) for grid in zip(*(p.previews for p in parts), strict=True)),
    )
