"""Run a notebook with parameters through papermill, strictly, and keep it as HTML."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from pjd.errors import shown
from pjd.paths import ROOT
from pjd.pipeline.params import read_yaml

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "8589934592"}
"""For the kernel: by default glibc returns the memory of every large tensor to the system and gets
it back page by page for the next one, which took a third of the time of decoding and measuring."""

QUIET = ["--log-level=CRITICAL"]
"""For the kernel: in every run it warns about its transport, and logs its own shutdown as an error.
This hides nothing that a cell prints or raises."""


MAPPING = "must be a mapping in YAML, such as '{name: value}'"


class NotebookError(RuntimeError):
    """A notebook cannot run, or failed; the message says which one, where and why."""


def run(path: Path, html: Path, parameters: dict[str, Any]) -> None:
    """Execute a notebook and render it.

    papermill only warns about a parameter that the notebook does not have; here it is an error. The
    executed notebook is kept as HTML for people; nothing depends on it.

    Args:
        path: the notebook.
        html: where to write the executed notebook.
        parameters: values for its cell tagged ``parameters``.

    Raises:
        NotebookError: for an unknown parameter, a missing notebook, a file that is none, or a
            failing cell.
    """
    # jsonschema imports this package, which takes 1.5 to 2 seconds, to check web addresses. Without
    # it, it skips that check, which no notebook needs.
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
    import nbformat
    import papermill
    from nbconvert import HTMLExporter
    from papermill.exceptions import PapermillExecutionError

    if not path.exists():
        raise NotebookError(f"there is no notebook {path}")
    try:
        known = set(papermill.inspect_notebook(str(path)))
    # A file that is no notebook fails in whatever way its content has it.
    except Exception as error:
        raise NotebookError(f"{path} is no notebook ({one_line(error)})") from error
    unknown = sorted(set(parameters) - known)
    if unknown:
        raise NotebookError(
            f"{path.name} has no parameter {unknown[0]!r}; it has {', '.join(sorted(known))}"
        )
    html.parent.mkdir(parents=True, exist_ok=True)
    executed = html.with_suffix(".ipynb")
    failure = None
    for name, value in KEEP_MEMORY.items():
        os.environ.setdefault(name, value)
    # A queued DVC experiment runs in a copy of the project; its kernel must import that copy.
    packages = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(packages))
    try:
        papermill.execute_notebook(
            str(path),
            str(executed),
            parameters=parameters,
            kernel_name="python3",
            extra_arguments=QUIET,
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
    html.write_text(page, encoding="utf-8")
    executed.unlink()
    if failure is not None:
        raise failure


def one_line(message: object) -> str:
    """A message without line breaks."""
    return " ".join(str(message).split())


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


def read_parameters(texts: list[str]) -> dict[str, Any]:
    """Parameters of a notebook from mappings in YAML; a later mapping overrides earlier ones.

    Raises:
        NotebookError: for a text that is no mapping from names to values.
    """
    found: dict[str, Any] = {}
    for text in texts:
        try:
            mapping = read_yaml(text, "it")
        except ValueError as error:
            advice = f"; a text with a comma, a quote or a # needs double quotes ({error})"
            raise NotebookError(f"parameters {shown(text)}: {MAPPING}{advice}") from error
        if not isinstance(mapping, dict) or not all(isinstance(name, str) for name in mapping):
            raise NotebookError(f"parameters {shown(text)}: {MAPPING}")
        found |= mapping
    return found


def main(arguments: list[str] | None = None) -> int:
    """Command line: ``python -m pjd.pipeline.notebook NOTEBOOK HTML '{name: value}' ...``."""
    parser = argparse.ArgumentParser(prog="pjd.pipeline.notebook", description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("html", type=Path, help="where to write the executed notebook")
    parser.add_argument(
        "parameters", nargs="*", help="mappings in YAML; a later one overrides earlier ones"
    )
    options = parser.parse_args(arguments)
    try:
        run(options.notebook, options.html, read_parameters(options.parameters))
    except NotebookError as error:
        print(f"pjd: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"pjd: {options.notebook.name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
