"""Many images, by one worker or several. A failed image does not stop the others."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import pjd
from pjd.api import Progress, Result, check_fit, check_seed_range, decode
from pjd.decoder.config import DecodeConfig
from pjd.decoder.model import ImageModel
from pjd.errors import ParameterError
from pjd.models.registry import default_dtype, load, resolve, weights_of
from pjd.paths import replacing


@dataclass(frozen=True)
class Job:
    """One image.

    Attributes:
        number: of the image, in the order asked for.
        prompt: the caption.
        seed: of its random numbers.
        name: of its file; it differs if anything in ``record`` does.
        record: all that the image is made from: model, digest of the weights, dtype, what they are
            rounded to if anything, prompt, options and seed.
    """

    number: int
    prompt: str
    seed: int
    name: str
    record: dict[str, Any]


def origin(name: str, dtype: str | None, quantize: str | None = None) -> dict[str, str]:
    """What the images of a model are made from, whatever the prompts and options.

    Args:
        name: see :func:`pjd.load`.
        dtype: that is asked for; None: the model's own.
        quantize: what the weights are rounded to; None: nothing, and then nothing is said.

    Raises:
        ValueError: naming a file of the model that is damaged.
    """
    return {
        "model": resolve(name).name,
        "weights": weights_of(name),
        "dtype": dtype or default_dtype(name),
        **({} if quantize is None else {"quantize": quantize}),
    }


def circumstances(how: dict[str, Any], images_together: int) -> dict[str, Any]:
    """What changes an image through rounding alone, of the options ``how`` and the versions."""
    told = {key: how[key] for key in ("device", "compiled")}
    versions = {"pjd": pjd.__version__, "torch": torch.__version__}
    return {**told, "images_together": images_together, **versions}


Outcome = tuple[list[Job], Result | Exception]
"""Jobs that were done together, and their result or error."""


def plan(
    prompts: list[str], images: int, origin: dict[str, str], config: DecodeConfig
) -> list[Job]:
    """``images`` jobs per prompt; the n-th of all jobs has the seed ``config.seed + n``.

    Args:
        prompts: the captions.
        images: per caption.
        origin: what else the images are made from, see :func:`origin`.
        config: the method and its options.

    Raises:
        ParameterError: if the last seed would be beyond the largest.
    """
    check_seed_range(config.seed, len(prompts) * images)
    jobs = []
    for number, prompt in enumerate(prompt for prompt in prompts for _ in range(images)):
        seed = config.seed + number
        record = {**origin, "prompt": prompt, "config": {**config.as_dict(), "seed": seed}}
        # As it is read back from a file: JSON has no tuples.
        told = json.loads(json.dumps(record))
        jobs.append(Job(number, prompt, seed, f"{number:04d}-{digest(record)}.png", told))
    return jobs


def digest(record: dict[str, Any]) -> str:
    """Eight characters that stand for what a file is made from."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]


def is_made(folder: Path, job: Job) -> bool:
    """Whether the file of ``job`` in ``folder`` is whole, and was made from the same."""
    try:
        with Image.open(folder / job.name) as image:
            found = json.loads(image.info["pjd"])
            image.verify()
    # A file that is cut off, or is something else, may fail anywhere in its reader.
    except Exception:
        return False
    return isinstance(found, dict) and job.record.items() <= found.items()


def save(folder: Path, jobs: list[Job], result: Result, circumstances: dict[str, Any]) -> None:
    """Write the images, each with its record as the PNG text ``pjd``.

    Args:
        folder: of the images. One that another process has made in the meantime stays.
        jobs: that were done.
        result: their images.
        circumstances: what changes an image through rounding alone; it is told, and not compared.

    Raises:
        OSError: naming the image that could not be written, for example on a full disk.
    """
    for index, job in enumerate(jobs):
        made = {"steps": int(result.steps[index]), "made_with": circumstances}
        text = PngInfo()
        text.add_itxt("pjd", json.dumps({**job.record, **made}, ensure_ascii=False))
        try:
            with replacing(folder / job.name) as partial:
                result.images[index].save(partial, "PNG", pnginfo=text)
                if is_made(folder, job):
                    partial.unlink()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(folder / job.name)) from error


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
    # Any failure of one image, lack of memory included, must not lose the others.
    except Exception as error:
        if len(jobs) == 1:
            # The traceback would keep all tensors of the image in memory.
            outcome = error.with_traceback(None)
    if outcome is not None:
        yield jobs, outcome
        return
    # The tensors of the failed batch are freed only now, after the except block.
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
        batch_size: the largest number of images done together.
        workers: processes, each with its own model and, with ``device`` "cuda", its own GPU; more
            than one needs Ray, on this machine or on the cluster that RAY_ADDRESS names.
        progress: see :func:`pjd.generate`; several workers do not report it.
        loading: options of :func:`pjd.load`.

    Yields:
        Outcomes, in the order in which they are finished.

    Raises:
        ParameterError: if several workers are wanted, but Ray or a GPU for each is missing; or if
            an option does not fit the model.
    """
    batches = [jobs[start : start + batch_size] for start in range(0, len(jobs), batch_size)]
    if workers > 1:
        yield from run_remote(name, batches, config, workers, loading)
        return
    model = load(name, **loading)
    check_fit(config, model)
    for batch in batches:
        yield from attempt(model, batch, config, progress)


class Worker:
    """A process with a model of its own."""

    def __init__(self, name: str, loading: dict[str, Any], threads: int) -> None:
        """Load the model."""
        torch.set_num_threads(threads)
        self.model = load(name, **loading)

    def process(self) -> int:
        """Its process id."""
        return os.getpid()

    def work(self, jobs: list[Job], config: DecodeConfig) -> list[Outcome]:
        """Do ``jobs``; raises :class:`ParameterError` if an option does not fit the model."""
        check_fit(config, self.model)
        return list(attempt(self.model, jobs, config))


def run_remote(
    name: str,
    batches: Iterable[list[Job]],
    config: DecodeConfig,
    workers: int,
    loading: dict[str, Any],
    started: Any = None,
) -> Iterator[Outcome]:
    """Distribute ``batches`` to Ray's workers; a lost worker is replaced and its batch repeated.

    Args:
        name: the model.
        batches: of jobs.
        config: see :func:`run`.
        workers: processes.
        loading: see :func:`run`.
        started: called with the workers' process ids once all have loaded the model.

    Yields:
        Outcomes, in the order in which they are finished.

    Raises:
        ParameterError: if Ray, or a GPU for each worker, is missing, if Ray does not start,
            or if an option does not fit the model.
    """
    try:
        import ray
    except ImportError as error:
        allowed = "more than 1 needs pip install 'pjd[ray]'"
        raise ParameterError("workers", workers, allowed) from error
    starts_ray = not ray.is_initialized()
    if starts_ray:
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
        # It raises a bare Exception on a machine that is too busy, among others.
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            allowed = f"Ray does not start on this machine ({reason}): try again, or use 1"
            raise ParameterError("workers", workers, allowed) from error
    threads = max(1, (os.cpu_count() or 1) // workers)
    gpus_each = int(loading.get("device") == "cuda")
    # A batch fails only if its worker is lost four times.
    held = {"num_cpus": 0, "num_gpus": gpus_each}
    remote = ray.remote(**held, max_restarts=-1, max_task_retries=3)(Worker)
    try:
        # Ray would wait for ever for a worker that gets no GPU.
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if gpus_each * workers > gpus:
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
                # An option that does not fit the model is said once, not for each image.
                if isinstance(getattr(error, "cause", None), ParameterError):
                    raise error.cause from None
                yield batch, error
    finally:
        if starts_ray:
            ray.shutdown()
