"""DVC in processes of its own, of which several may run side by side."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

from pjd.paths import REPORTS, ROOT
from pjd.pipeline.notebook import THREADS

LOGS = REPORTS / "logs"
"""Folder of what DVC and the notebooks say: a file per process, named after its first stage."""

STARTS = "Running stage '"
"""How DVC's line begins that names the stage it runs now."""

BUSY = "is busy"
"""What DVC says of files that another process reads or writes."""

PATIENCE = 10.0
"""Seconds for which files may be busy: those of a process that was killed are, until it is gone."""


def dvc() -> str:
    """The program of this environment."""
    return str(Path(sys.executable).with_name("dvc"))


def changed(targets: Iterable[str] = ()) -> dict[str, list[Any]]:
    """Stages that DVC finds out of date, as things are now.

    Args:
        targets: stages or groups to ask for; all, if there are none.

    Returns:
        By stage what has changed, as DVC tells it.

    Raises:
        ChildProcessError: if DVC cannot tell, with its reason.
    """
    command = [dvc(), "--wait-for-lock", "status", "--json", *targets]
    end = time.time() + PATIENCE
    while True:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode == 0:
            told: dict[str, list[Any]] = json.loads(done.stdout)
            return told
        if BUSY not in done.stderr or time.time() > end:
            lines = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
            raise ChildProcessError("\n".join([f"dvc status: {done.returncode}", *lines]))
        time.sleep(1)


class Process:
    """A DVC process, and what it says."""

    def __init__(self, stages: list[str], single: bool, threads: int | None) -> None:
        """Start it; its words go to a file, so that it lives on if nobody reads them.

        Args:
            stages: what DVC is asked for.
            single: not for what the stages depend on.
            threads: the most that a stage computes with; None: as its command says.
        """
        LOGS.mkdir(parents=True, exist_ok=True)
        self.stages = stages
        self.log = LOGS / f"{stages[0]}.log"
        self.running: str | None = None
        self.began = 0.0
        options = ["--single-item"] if single else []
        command = [dvc(), "--wait-for-lock", "repro", *options, *stages]
        limit = {} if threads is None else dict.fromkeys((THREADS, "OMP_NUM_THREADS"), str(threads))
        with self.log.open("w") as told:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **limit},
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=subprocess.STDOUT,
            )
        self.reader: TextIO = self.log.open(errors="replace")

    def look(self, started: Callable[[str], None], ended: Callable[[str, float], None]) -> bool:
        """Tell which stages have started and ended since the last look; whether it still runs."""
        alive = self.process.poll() is None
        for line in self.reader:
            if line.startswith(STARTS):
                self.end(ended)
                self.running = line.removeprefix(STARTS).partition("'")[0]
                self.began = time.time()
                started(self.running)
        if not alive:
            if not self.failed:
                self.end(ended)
            self.reader.close()
        return alive

    def end(self, ended: Callable[[str, float], None]) -> None:
        """Tell that the stage that ran, if one did, has ended."""
        if self.running is not None:
            ended(self.running, time.time() - self.began)
        self.running = None

    @property
    def failed(self) -> bool:
        """Whether it has ended, and not well."""
        return bool(self.process.poll())

    def end_of_log(self) -> str:
        """The last lines of what it said, and where all of it is."""
        lines = self.log.read_text(errors="replace").splitlines()[-25:]
        return "\n".join([*lines, f"(all of it: {self.log})"])
