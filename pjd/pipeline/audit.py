"""Audit a decoded run: `pjd audit`, and the table of the report."""

import torch

from pjd.decoder.config import DecodeConfig
from pjd.errors import check_integer
from pjd.measure.audit import audit, check_noise
from pjd.models.registry import check_dtype, load
from pjd.pipeline.files import read_run
from pjd.pipeline.runs import check_weights, column_tensor, run_folder


def audit_run(
    run: str,
    dtype: str | None = None,
    device: str = "cpu",
    batch_size: int = 8,
    images: int | None = None,
) -> dict[str, float]:
    """Share of a run's codes that plain AR draws too; see :meth:`pjd.measure.audit.Audit.summary`.

    Args:
        run: its name, a folder below runs/.
        dtype: to compute AR in; None: the one that the run was decoded in.
        device: to compute on.
        batch_size: images per forward pass.
        images: only so many, the first ones; None: all.

    Raises:
        ParameterError: if the run was not decoded with noise that is fixed by position, or a
            parameter is not allowed, or the model's weights are not those of the run.
        FileNotFoundError: if it has not been decoded.
    """
    check_integer("batch_size", batch_size, 1)
    if images is not None:
        check_integer("images", images, 1)
    check_dtype(dtype)
    decoded = read_run(run_folder(run))
    config = DecodeConfig(**decoded.config)
    check_noise(config)
    check_weights(run, decoded)
    table = decoded.images[:images]
    seeds = config.seed + torch.arange(len(table))
    model = load(decoded.model, device, dtype or decoded.dtype)
    tokens = column_tensor(table.tokens)
    return audit(model, list(table.prompt), tokens, seeds, config, batch_size).summary()
