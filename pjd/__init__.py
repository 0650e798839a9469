"""Parallel Jacobi Decoding and its relatives, for autoregressive image generators.

The paper is in :mod:`pjd.decoder`, whose docstring has the loop and the order to read it in. The
rest stands around it, and imports go one way only::

    cli, jobs, custom_generate -> pipeline -> measure, emoji -> models, api -> decoder

- ``models``: adapters, one file per family. ``emoji``: the embedded model's corpus and training.
- ``measure``: fidelity to the AR model, quality, attention, retrieval.
- ``pipeline``: the study: runs, notebooks, figures, the report.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Imported when first used: `import pjd` and the command line must not wait for torch.
_PUBLIC = {
    "load": "pjd.models.registry",
    "generate": "pjd.api",
    "Result": "pjd.api",
    "DecodeConfig": "pjd.decoder.config",
    "ParameterError": "pjd.errors",
    "LogitsError": "pjd.errors",
    "configure": "pjd.decoder.methods",
    "decoding": "pjd.custom_generate",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pjd' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
