"""DVC as processes of its own: several may run side by side, and a kill ends one of them alone."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

from pjd.paths import REPORTS, ROOT
from pjd.pipeline.notebook import THREADS

LOGS = REPORTS / "logs"
"""Folder of what DVC and the notebooks say."""

STARTS = "Running stage '"
"""How DVC's line begins that names the stage it runs now."""

BUSY = "is busy"
"""What DVC says of files that another process reads or writes."""

PATIENCE = 10.0
"""Seconds for which files may be busy: those of a process that was killed are, until it is gone."""


def dvc() -> str:
    """The program of this environment."""
    return str(Path(sys.executable).with_name("dvc"))


def changed(targets: Iterable[str] = ()) -> set[str]:
    """Stages that DVC finds out of date, as things are now.

    Args:
        targets: stages or groups to ask for; all, if there are none.

    Raises:
        ChildProcessError: if DVC cannot tell, with its reason.
    """
    command = [dvc(), "--wait-for-lock", "status", "--json", *targets]
    end = time.time() + PATIENCE
    while True:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode == 0:
            return set(json.loads(done.stdout))
        if BUSY not in done.stderr or time.time() > end:
            lines = done.stderr.splitlines()
            raise ChildProcessError("\n".join(x for x in lines if not x.startswith("WARNING")))
        time.sleep(1)


def pull(groups: Iterable[str]) -> bool:
    """Check out what comes with the repository, and is not there yet.

    Returns:
        Whether all went well; if not, DVC has told what did not.
    """
    command = [dvc(), "--wait-for-lock", "pull", "--allow-missing", *groups]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return done.returncode == 0


class Process:
    """A DVC process, and what it says."""

    def __init__(self, stages: list[str], beside: int) -> None:
        """Start it; its words go to a file, so that it lives on if nobody reads them.

        Args:
            stages: what DVC is asked for.
            beside: how many run at once; if it is one of several, it computes with one thread. With
                0, DVC also runs what the stages depend on.
        """
        LOGS.mkdir(parents=True, exist_ok=True)
        self.stages = stages
        self.log = LOGS / f"{stages[0]}.log"
        self.running: str | None = None
        self.began = 0.0
        options = ["--single-item"] if beside else []
        command = [dvc(), "--wait-for-lock", "repro", *options, *stages]
        limit = {THREADS: "1", "OMP_NUM_THREADS": "1"} if beside > 1 else {}
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
            self.end(ended)
            self.reader.close()
        return alive

    def end(self, ended: Callable[[str, float], None]) -> None:
        """Tell that the stage that ran, if one did, has ended."""
        if self.running is not None:
            ended(self.running, time.time() - self.began)
        self.running = None
