"""Official checkpoints: read tensors from files, and put them into modules that they must fit."""

import warnings
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pjd.models.catalogue import INDEX
from pjd.models.files import check_file, shards
from pjd.paths import replacing

WRAPPERS = ("model", "module", "state_dict")
"""Keys under which training scripts save the tensors if a torch file holds other things too; of
several the first counts, as in LlamaGen's official scripts."""

PREFIXES = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of a tensor's name that come from what a model was wrapped in for training: for several
GPUs, by torch.compile, and so on. No model that we read has parts of these names."""


@contextmanager
def damaged(file: Path, otherwise: str = "holds more than tensors") -> Iterator[None]:
    """Turn any error of a reader into ValueError, except for a missing file or lack of memory.

    Args:
        file: which is read.
        otherwise: what else may be wrong with it.
    """
    try:
        yield
    except (OSError, MemoryError, torch.OutOfMemoryError):
        raise
    # A file that is cut off, or is something else, may fail anywhere in its reader.
    except Exception as error:
        message = f"{file} is damaged, or {otherwise}: {reason(error)}"
        raise ValueError(message) from error


def read(path: Path, device: torch.device | str = "cpu", prefix: str = "") -> dict[str, Tensor]:
    """Tensors by name of a checkpoint, without what their names have of :data:`PREFIXES`.

    Args:
        path: a folder with ``model.safetensors`` or with shards and their index, a safetensors
            file, or a torch file whose tensors are at the top or below one of :data:`WRAPPERS`.
        device: where the tensors go.
        prefix: read only tensors whose names begin with it, and only the shards that have any.

    Raises:
        FileNotFoundError: if the file, or a shard that the index names, is missing.
        ValueError: if a file is damaged, or holds more than tensors.
    """
    files = [path]
    if path.is_dir():
        files = [path / "model.safetensors"]
        if (path / INDEX).exists():
            where = shards(path / INDEX)
            used = {shard for name, shard in where.items() if plain(name).startswith(prefix)}
            files = [path / shard for shard in sorted(used)]
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        raise FileNotFoundError(f"no file {', '.join(missing)}")
    tensors: dict[str, Tensor] = {}
    for file in files:
        check_file(file)
        if file.suffix == ".safetensors":
            with damaged(file), safe_open(file, framework="pt", device=str(device)) as opened:
                for name, full in plain_names(opened.keys()).items():
                    if name.startswith(prefix):
                        tensors[name] = opened.get_tensor(full)
        else:
            # Tensors only: an ordinary pickle could run code. Training scripts also save their
            # arguments, a Namespace, which is harmless.
            with damaged(file), torch.serialization.safe_globals([Namespace]):
                loaded = torch.load(file, map_location=device, weights_only=True)
            found = unwrap(loaded, str(file))
            names = plain_names(found).items()
            tensors |= {name: found[full] for name, full in names if name.startswith(prefix)}
    return tensors


def plain(name: str) -> str:
    """The name of a tensor without :data:`PREFIXES`."""
    return ".".join(part for part in name.split(".") if part not in PREFIXES)


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Names of tensors by their plain names.

    Raises:
        ValueError: if two have the same.
    """
    found: dict[str, str] = {}
    for name in names:
        other = found.setdefault(plain(name), name)
        if other != name:
            raise ValueError(f"{other} and {name} would be the same tensor")
    return found


def unwrap(loaded: object, source: str) -> dict[str, Tensor]:
    """Tensors by name from the content of a torch file; warns which of several wrappers it takes.

    Args:
        loaded: a dictionary of tensors, or one that has it below one of :data:`WRAPPERS`.
        source: how an error names the file.

    Raises:
        ValueError: if it is neither, or if it holds other things, which are named.
    """
    wrappers = [key for key in WRAPPERS if key in loaded] if isinstance(loaded, dict) else []
    if len(wrappers) > 1:
        taken = f"{source} has {' and '.join(wrappers)}: {wrappers[0]} is read"
        warnings.warn(taken, stacklevel=2)
    if isinstance(loaded, dict) and wrappers:
        loaded = loaded[wrappers[0]]
    if not isinstance(loaded, dict):
        raise ValueError(f"{source} holds a {type(loaded).__name__}, not tensors by name")
    others = [
        f"{name} ({type(value).__name__})"
        for name, value in loaded.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if others:
        raise ValueError(f"{source} holds more than tensors: {', '.join(others)}")
    return loaded


def reason(error: Exception) -> str:
    """One line that says what is wrong with a file, without torch's advice to trust it anyway."""
    lines = str(error).splitlines() or [type(error).__name__]
    line = next((line for line in lines if "error:" in line), lines[0])
    return line.strip().partition(". ")[0]


def require(model: str, folder: Path, *files: str) -> None:
    """Check that ``folder`` has all of ``files``, and that they are what their names say.

    Raises:
        FileNotFoundError: naming those that are missing.
        ValueError: naming the first that is damaged, or no more than a pointer.
    """
    missing = [str(folder / file) for file in files if not (folder / file).exists()]
    if missing:
        raise FileNotFoundError(f"model {model}: no file {', '.join(missing)}")
    for file in files:
        check_file(folder / file)


def convert(source: Path, target: Path) -> str:
    """Write what :func:`read` reads of ``source`` as one safetensors file, for anyone to read.

    Returns:
        How many tensors it has, and its size.

    Raises:
        FileNotFoundError: see :func:`read`.
        ValueError: see :func:`read`.
    """
    tensors = {name: value.clone().contiguous() for name, value in read(source).items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as partial:
        save_file(tensors, partial)
        # It would be readable by its owner alone.
        partial.chmod(0o644)
    size = sum(value.nbytes for value in tensors.values()) / 2**30
    return f"{len(tensors)} tensors, {size:.2f} GiB"


def cast(tensors: dict[str, Tensor], dtype: torch.dtype, exact: str) -> dict[str, Tensor]:
    """``tensors`` in ``dtype``, but those whose names begin with ``exact`` in single precision."""
    return {
        name: value.float() if name.startswith(exact) else value.to(dtype)
        for name, value in tensors.items()
    }


def fit(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Make ``tensors`` the parameters of ``module``, which may be on the meta device.

    Args:
        module: takes over the tensors, with their dtypes and device.
        tensors: by name; exactly those that the module has.
        source: how an error names the tensors.

    Raises:
        ValueError: naming every tensor that is missing, unexpected or of another shape.
    """
    expected = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    wrong = [f"missing {name}" for name in sorted(expected.keys() - found.keys())]
    wrong += [f"unexpected {name}" for name in sorted(found.keys() - expected.keys())]
    wrong += [
        f"{name} is {found[name]}, not {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    if wrong:
        raise ValueError(f"{source} does not fit {type(module).__name__}: {'; '.join(wrong)}")
    module.load_state_dict(tensors, assign=True)
