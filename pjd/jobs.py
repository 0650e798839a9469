"""Many images, by one worker or several: what is finished is skipped, what fails costs no other."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL.PngImagePlugin import PngInfo

from pjd.api import Progress, Result, decode
from pjd.decoder.config import DecodeConfig
from pjd.decoder.model import ImageModel
from pjd.errors import ParameterError
from pjd.models.registry import load


@dataclass(frozen=True)
class Job:
    """One image.

    Attributes:
        number: its place in the order asked for.
        prompt: the caption.
        seed: of its random numbers.
        name: of its file; another where prompt, seed, model or an option differs.
    """

    number: int
    prompt: str
    seed: int
    name: str


Outcome = tuple[list[Job], Result | Exception]
"""Jobs done together, and what came of them."""


def plan(prompts: list[str], images: int, model: str, config: DecodeConfig) -> list[Job]:
    """``images`` jobs a prompt; the n-th of all has the seed ``config.seed + n``."""
    options = {key: value for key, value in config.as_dict().items() if key != "seed"}
    jobs = []
    for number, prompt in enumerate(prompt for prompt in prompts for _ in range(images)):
        seed = config.seed + number
        text = json.dumps([model, prompt, seed, options], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        jobs.append(Job(number, prompt, seed, f"{number:04d}-{digest}.png"))
    return jobs


def save(folder: Path, jobs: list[Job], result: Result, model: str) -> None:
    """Write the images; each holds what it was made from, as the PNG text ``pjd``.

    Raises:
        OSError: naming the image that could not be written, as on a full disk.
    """
    for index, job in enumerate(jobs):
        made = {
            "model": model,
            "prompt": job.prompt,
            "steps": int(result.steps[index]),
            "config": {**result.config.as_dict(), "seed": job.seed},
        }
        text = PngInfo()
        text.add_itxt("pjd", json.dumps(made, ensure_ascii=False))
        path, partial = folder / job.name, folder / f".{job.name}.partial"
        try:
            result.images[index].save(partial, "PNG", pnginfo=text)
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(path)) from error


def attempt(
    model: ImageModel,
    jobs: list[Job],
    config: DecodeConfig,
    progress: bool | Progress = False,
) -> Iterator[Outcome]:
    """Do ``jobs`` together or, if that fails, one by one."""
    outcome: Result | Exception | None = None
    try:
        outcome = decode(
            model,
            [job.prompt for job in jobs],
            config,
            batch_size=len(jobs),
            seeds=[job.seed for job in jobs],
            progress=progress,
        )
    # Whatever fails for one image, a shortage of memory among it, must not lose the others.
    except Exception as error:
        if len(jobs) == 1:
            # Its traceback would keep all tensors of the image.
            outcome = error.with_traceback(None)
    if outcome is not None:
        yield jobs, outcome
        return
    # Only here, after the except block, are the tensors of the failed batch let go.
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
    for job in jobs:
        yield from attempt(model, [job], config, progress)


def run(
    name: str,
    jobs: list[Job],
    config: DecodeConfig,
    *,
    batch_size: int = 64,
    workers: int = 1,
    progress: bool | Progress = False,
    **loading: Any,
) -> Iterator[Outcome]:
    """Do ``jobs``, in batches.

    Args:
        name: the model, see :func:`pjd.load`.
        jobs: from :func:`plan`.
        config: the method and its options; each job has its own seed.
        batch_size: most images done together.
        workers: processes, each with its own model and, with ``device`` "cuda", its own GPU; more
            than one need Ray, on this machine or on the cluster that RAY_ADDRESS names.
        progress: see :func:`pjd.generate`; several workers tell nothing.
        loading: options of :func:`pjd.load`.

    Yields:
        Outcomes, in the order in which they come.

    Raises:
        ParameterError: if several workers are wanted and Ray, or a GPU for each, is not there.
    """
    batches = [jobs[first : first + batch_size] for first in range(0, len(jobs), batch_size)]
    if workers > 1:
        yield from run_remote(name, batches, config, workers, loading)
        return
    model = load(name, **loading)
    for batch in batches:
        yield from attempt(model, batch, config, progress)


class Worker:
    """A process with a model of its own."""

    def __init__(self, name: str, loading: dict[str, Any], threads: int) -> None:
        """Load the model."""
        torch.set_num_threads(threads)
        self.model = load(name, **loading)

    def process(self) -> int:
        """Its number, for those who would watch or stop it."""
        return os.getpid()

    def work(self, jobs: list[Job], config: DecodeConfig) -> list[Outcome]:
        """Do ``jobs``."""
        return list(attempt(self.model, jobs, config))


def run_remote(
    name: str,
    batches: Iterable[list[Job]],
    config: DecodeConfig,
    workers: int,
    loading: dict[str, Any],
    started: Any = None,
) -> Iterator[Outcome]:
    """Share ``batches`` among Ray's workers; a lost worker is replaced and its batch done again.

    Args:
        name: the model.
        batches: of jobs.
        config: see :func:`run`.
        workers: processes.
        loading: see :func:`run`.
        started: called with the workers' process numbers once they are there.

    Yields:
        Outcomes, in the order in which they come.

    Raises:
        ParameterError: if Ray, or a GPU for each worker, is not there.
    """
    try:
        import ray
    except ImportError as error:
        raise ParameterError(
            "workers", workers, "more than 1 need pip install 'pjd[ray]'"
        ) from error
    own = not ray.is_initialized()
    if own:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
    threads = max(1, (os.cpu_count() or 1) // workers)
    each = int(loading.get("device") == "cuda")
    # A worker that is lost for good (killed four times over one batch) is that batch's failure.
    remote = ray.remote(
        num_cpus=0,
        num_gpus=each,
        max_restarts=-1,
        max_task_retries=3,
    )(Worker)
    try:
        # A worker without a GPU of its own would be waited for, for ever.
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if each * workers > gpus:
            raise ParameterError("workers", workers, f"more than the {gpus} GPUs that Ray has")
        idle = [remote.remote(name, loading, threads) for _ in range(workers)]
        if started is not None:
            started(ray.get([worker.process.remote() for worker in idle]))
        waiting = list(batches)[::-1]
        busy: dict[Any, tuple[Any, list[Job]]] = {}
        while waiting or busy:
            while waiting and idle:
                worker, batch = idle.pop(), waiting.pop()
                busy[worker.work.remote(batch, config)] = (worker, batch)
            (done,), _ = ray.wait(list(busy))
            worker, batch = busy.pop(done)
            idle.append(worker)
            try:
                yield from ray.get(done)
            except ray.exceptions.RayError as error:
                yield batch, error
    finally:
        if own:
            ray.shutdown()
