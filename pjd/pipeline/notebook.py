"""Run a notebook with parameters through papermill, strictly, and keep it as HTML."""

import argparse
import ast
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from pjd.errors import ParameterError, one_line
from pjd.paths import ROOT, replacing
from pjd.pipeline.devices import own_device

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "8589934592"}
"""For the kernel: by default glibc returns the memory of every large tensor to the system and gets
it back page by page for the next one, which took a third of the time of decoding and measuring."""

PATIENT = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
"""Environment, to be set before torch is imported: threads that wait for each other must sleep. By
default they spin, which takes the core from the thread that they wait for as soon as another
program runs beside them: an image by AR took 34 s beside one busy process, and 1 s with this."""

THREADS = "PJD_THREADS"
"""Environment variable: the most threads that a notebook may take, where several run side by side
and would wait for each other."""

QUIET = ["--log-level=CRITICAL"]
"""For the kernel: in every run it warns about its transport, and logs its own shutdown as an error.
This hides nothing that a cell prints or raises."""


class NotebookError(RuntimeError):
    """A notebook cannot run, or failed; the message says which one, where and why."""


def run(path: Path, html: Path, parameters: dict[str, Any]) -> None:
    """Execute a notebook and render it.

    papermill only warns about a parameter that the notebook does not have; here it is an error. The
    executed notebook is kept as HTML for people; nothing depends on it.

    Args:
        path: the notebook.
        html: where to write the executed notebook; its name ends in .html.
        parameters: values for its cell tagged ``parameters``.

    Raises:
        NotebookError: for an unknown parameter, a missing notebook, another name of ``html`` or a
            failing cell, which the HTML shows.
    """
    if html.suffix != ".html":
        raise NotebookError(f"{html} must end in .html: the executed notebook is written there")
    import_faster()
    import nbformat
    import papermill
    from nbconvert import HTMLExporter
    from papermill.exceptions import PapermillExecutionError

    refuse_unknown(path, list(parameters), parameters_of(path))
    html.parent.mkdir(parents=True, exist_ok=True)
    failure = None
    for name, value in (KEEP_MEMORY | PATIENT).items():
        os.environ.setdefault(name, value)
    # A queued DVC experiment runs in a copy of the project; its kernel must import that copy.
    packages = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(packages))
    # Not beside the HTML: a notebook of that name may be the one that runs, or somebody's own.
    with tempfile.TemporaryDirectory(prefix="pjd-") as private:
        executed = Path(private) / path.name
        try:
            papermill.execute_notebook(
                str(path),
                str(executed),
                parameters=parameters,
                kernel_name="python3",
                extra_arguments=QUIET,
                # A kernel that is asked to end takes a second for it.
                shutdown_kernel="immediate",
                cwd=str(ROOT),
                progress_bar=sys.stderr.isatty(),
                log_output=True,
                stdout_file=sys.stdout,
                stderr_file=sys.stderr,
            )
        except PapermillExecutionError as error:
            failure = NotebookError(
                f"{path.name} failed in cell {error.exec_count} with {parameters}: "
                f"{error.ename}: {one_line(error.evalue)} (see {html})"
            )
        page, _ = HTMLExporter().from_notebook_node(nbformat.read(executed, as_version=4))
    with replacing(html) as partial:
        partial.write_text(page, encoding="utf-8")
    if failure is not None:
        raise failure


def import_faster() -> None:
    """Before papermill is imported: leave out what takes a third of the time, and is not needed.

    jsonschema imports the package to check web addresses with. Without it, it skips that check.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


def value_of(text: str) -> Any:
    """A word of the command line as a value: a number, true, false, null, or else a text."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return {"true": True, "false": False, "null": None}.get(text, text)


def typed(words: list[str], parameter: dict[str, str]) -> Any:
    """The value that words of the command line have for a parameter of a notebook.

    Args:
        words: what follows its name; none at all means true.
        parameter: as papermill describes it. A text stays one if the default is a text; one word is
            a list of one if the default is a list, or the parameter is annotated as one.
    """
    default = default_of(parameter)
    values = [word if isinstance(default, str) else value_of(word) for word in words]
    if isinstance(default, list) or parameter["inferred_type_name"] == "list" or len(values) > 1:
        return values
    return values[0] if values else True


def default_of(parameter: dict[str, str]) -> Any:
    """The default of a parameter, as papermill describes it; None if it is no literal."""
    try:
        return ast.literal_eval(parameter["default"])
    except (ValueError, SyntaxError):
        return None


def read_words(words: list[str], notebook: Path) -> dict[str, Any]:
    """Parameters from words, as DVC writes a mapping.

    ``--name value``; ``--name value value`` for a list; ``--name`` and ``--no-name`` for true and
    false. A later value wins over an earlier one, so that a run's own options win over what
    all share.

    Args:
        words: of the command line.
        notebook: whose parameters they are.

    Raises:
        NotebookError: for a parameter that the notebook does not have, or a word without a name.
    """
    known = parameters_of(notebook)
    given: dict[str, list[str]] = {}
    name = None
    for word in words:
        if word.startswith("--no-") and word.removeprefix("--no-") in known:
            given[word.removeprefix("--no-")] = ["false"]
        elif word.startswith("--"):
            name = word.removeprefix("--")
            given[name] = []
        elif name is None:
            raise NotebookError(f"{word!r} stands before the first --name")
        else:
            given[name].append(word)
    refuse_unknown(notebook, list(given), known)
    return {name: typed(values, known[name]) for name, values in given.items()}


def limit_threads(parameters: dict[str, Any]) -> dict[str, Any]:
    """``parameters`` with at most as many ``threads`` as :data:`THREADS` says, where it is set.

    Raises:
        ParameterError: if something else than a number of threads stands there.
    """
    text = os.environ.get(THREADS)
    if not text:
        return parameters
    if not re.fullmatch("[1-9][0-9]{0,3}", text):
        raise ParameterError(THREADS, text, "must be a number of threads, such as 1, or not be set")
    # What is no number is refused by the notebook, as it is without a limit.
    if not isinstance(parameters.get("threads"), int):
        return parameters
    return {**parameters, "threads": min(int(text), parameters["threads"])}


def parameters_of(notebook: Path) -> dict[str, dict[str, str]]:
    """The parameters of a notebook by name, as papermill describes them.

    Raises:
        NotebookError: if there is no such notebook, or it is none.
    """
    import_faster()
    import papermill

    if not notebook.exists():
        raise NotebookError(f"there is no notebook {notebook}")
    try:
        return papermill.inspect_notebook(str(notebook))
    # A file that is no notebook fails in whatever way its content has it.
    except Exception as error:
        raise NotebookError(f"{notebook} is no notebook ({one_line(error)})") from error


def refuse_unknown(notebook: Path, names: list[str], known: dict[str, Any]) -> None:
    """Raise :class:`NotebookError` if ``names`` has one that the notebook does not have."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise NotebookError(
            f"{notebook.name} has no parameter {unknown[0]!r}; it has {', '.join(sorted(known))}"
        )


def main(arguments: list[str] | None = None) -> int:
    """Command line: ``python -m pjd.pipeline.notebook NOTEBOOK HTML --name value ...``."""
    parser = argparse.ArgumentParser(prog="pjd.pipeline.notebook", description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("html", type=Path, help="where to write the executed notebook")
    parser.add_argument(
        "parameters", nargs=argparse.REMAINDER, help="--name value; several values are a list"
    )
    options = parser.parse_args(arguments)
    try:
        parameters = limit_threads(read_words(options.parameters, options.notebook))
        with own_device() as device:
            if device is not None:
                print(f"{options.html}: on device {device}", flush=True)
            run(options.notebook, options.html, parameters)
    except (NotebookError, ParameterError) as error:
        print(f"pjd: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"pjd: {options.notebook.name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
