"""`make reproduce`: decode the main runs, draw everything, and say what comes next and until when.

DVC decides what is out of date, and runs it. This module only gives it the stages in an order that
has the first pictures early, and lets several DVC processes share out stages of one core each.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from pjd.paths import REPORTS, ROOT, RUNS
from pjd.pipeline.clock import Clock
from pjd.pipeline.devices import listed_devices
from pjd.pipeline.files import read_run, write_json
from pjd.pipeline.lock import restore
from pjd.pipeline.notebook import THREADS
from pjd.pipeline.params import parameters
from pjd.pipeline.runs import provenance

TIMES = ROOT / "benchmarks" / "results" / "reproduce.json"
"""Seconds of every stage, written by ``--record``; times that are told are scaled from them."""

LOGS = REPORTS / "logs"
"""Folder of what DVC and the notebooks say."""

FIRST = "the first pictures"
"""Title of the part after which pictures can be shown."""

FIRST_PICTURES = REPORTS / "first_pictures.png"

STARTS = "Running stage '"
"""How DVC's line begins that names the stage it runs now."""

LOOK = 0.2
"""Seconds between two looks at what DVC says."""

MOST = 4
"""DVC processes at once, at most: each needs some GB of memory."""


class Part(NamedTuple):
    """Stages that DVC is asked for together.

    Attributes:
        title: what a line calls them.
        stages: by DVC's names, in order.
        processes: of DVC, which share the stages out; with more than one, what they depend on must
            be up to date.
    """

    title: str
    stages: list[str]
    processes: int = 1


def plan(values: dict[str, Any], everything: bool = False) -> list[Part]:
    """All parts, in order.

    Args:
        values: params.yaml.
        everything: decode and measure all runs, not only those of the group "main".
    """
    runs = {k: v for k, v in values["runs"].items() if everything or v["group"] == "main"}
    first = values["first_pictures"]
    others = [run for run in runs if run not in first]
    settings = dict.fromkeys(run["setting"] for run in runs.values())
    cores = min(os.cpu_count() or 1, MOST)
    on_cpu = values["machine"]["device"] == "cpu"
    # On a CPU one thread each: two threads of a process would wait for each other.
    computing = cores if on_cpu else max(1, len(listed_devices()))
    return [
        Part("what runs depend on", ["hash-decoder", "prepare"]),
        Part(FIRST, [f"decode@{run}" for run in first], computing),
        Part("the other runs", [f"decode@{run}" for run in others], computing),
        Part("what measures them", ["hash-measures", "fit-probe"]),
        Part("what they are compared with", [f"compare@{name}" for name in settings], computing),
        Part("their measurement", [f"evaluate@{run}" for run in runs], computing),
        Part("the table of runs", ["collect", "hash-figures"]),
        Part("the figures", [f"draw@{name}" for name in values["figures"]], cores),
        Part("the report", ["report"]),
    ]


def at_once(parts: list[Part]) -> dict[str, int]:
    """By stage, how many processes its part has."""
    return {stage: part.processes for part in parts for stage in part.stages}


class Process:
    """A DVC process, and what it says."""

    def __init__(self, number: int, stages: list[str], single: bool) -> None:
        """Start it; its words go to a file, so that it lives on if nobody reads them.

        Args:
            number: of its file of words.
            stages: what DVC is asked for.
            single: not what they depend on; it is one of several, and computes with one thread.
        """
        LOGS.mkdir(parents=True, exist_ok=True)
        self.log = LOGS / f"reproduce-{number}.log"
        self.running: str | None = None
        self.began = 0.0
        options = ["--single-item"] if single else []
        command = [dvc(), "--wait-for-lock", "repro", *options, *stages]
        limit = {THREADS: "1", "OMP_NUM_THREADS": "1"} if single else {}
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


def dvc() -> str:
    """The program of this environment."""
    return str(Path(sys.executable).with_name("dvc"))


def is_up_to_date() -> bool:
    """Whether DVC finds nothing that has changed."""
    done = subprocess.run([dvc(), "--wait-for-lock", "status", "--quiet"], cwd=ROOT)
    return done.returncode == 0


def say(text: str) -> None:
    """Print a line with the time of day."""
    print(f"{datetime.now():%H:%M:%S}  {text}", flush=True)


def run_part(part: Part, clock: Clock, later: list[str]) -> dict[str, float]:
    """Let DVC run a part, a line per stage that runs.

    Args:
        part: what to run.
        clock: says until when.
        later: stages of the parts that follow.

    Returns:
        Seconds of each stage that ran.

    Raises:
        ChildProcessError: if a stage failed, with the end of what was said.
    """
    left, took = list(part.stages), {}

    def started(stage: str) -> None:
        done = clock.until([*left, *later])
        say(f"  {stage}; then {len(left) + len(later) - (stage in left)} more, until {done}")

    def ended(stage: str, seconds: float) -> None:
        took[stage] = seconds
        clock.ran(stage, seconds)
        if stage in left:
            left.remove(stage)

    count = min(part.processes, len(part.stages))
    shares = [part.stages[k::count] for k in range(count)]
    processes = [Process(k, share, count > 1) for k, share in enumerate(shares)]
    waiting = list(processes)
    while waiting:
        waiting = [one for one in waiting if one.look(started, ended)]
        time.sleep(LOOK)
    for one in processes:
        if one.process.returncode:
            end = one.log.read_text(errors="replace").splitlines()[-25:]
            raise ChildProcessError("\n".join([*end, f"(all of it: {one.log})"]))
    return took


def draw_first_pictures(runs: list[str]) -> None:
    """A few pictures of the first runs, one row each, with their steps."""
    from pjd.models.registry import load
    from pjd.pipeline.figures import compared, first_of_groups, style

    style()
    setting = parameters()["settings"][parameters()["runs"][runs[0]]["setting"]]
    first = read_run(RUNS / runs[0]).images
    figure = compared(load(setting["model"]), runs, first_of_groups(first, 8))
    FIRST_PICTURES.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIRST_PICTURES, bbox_inches="tight")


def reproduce(everything: bool = False, record: bool = False) -> None:
    """Run all parts; what is up to date is not run again.

    Args:
        everything: see :func:`plan`.
        record: afterwards write the seconds of every stage to ``TIMES``.

    Raises:
        ChildProcessError: if a stage failed.
    """
    if is_up_to_date():
        say("Everything is up to date.")
        return
    values = parameters()
    parts = plan(values, everything)
    times = json.loads(TIMES.read_text())["seconds"] if TIMES.exists() else {}
    clock, began = Clock(at_once(parts), times), time.time()
    took: dict[str, float] = {}
    for number, part in enumerate(parts, 1):
        later = [stage for following in parts[number:] for stage in following.stages]
        say(
            f"{number}/{len(parts)}: {part.title}, until {clock.until(part.stages)}; all done at "
            f"about {clock.until([*part.stages, *later])}"
        )
        took |= run_part(part, clock, later)
        if part.title == FIRST and took.keys() & set(part.stages):
            draw_first_pictures(values["first_pictures"])
            say(f"The first pictures: {FIRST_PICTURES}")
    say(f"Done in {(time.time() - began) / 60:.1f} minutes.")
    if record:
        write_json(TIMES, provenance(seconds={k: round(v, 1) for k, v in took.items()}))


def main(arguments: list[str] | None = None) -> int:
    """Command line: ``python -m pjd.pipeline.reproduce``."""
    parser = argparse.ArgumentParser(prog="pjd.pipeline.reproduce", description=__doc__)
    parser.add_argument("--everything", action="store_true", help="decode all runs, not the main")
    parser.add_argument("--record", action="store_true", help=f"write {TIMES.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    try:
        said = restore()
        if said:
            say(said)
        reproduce(options.everything, options.record)
    except (ChildProcessError, FileNotFoundError, ValueError) as error:
        print(
            f"{error}\npjd: stopped. What is finished stays; run it again to go on.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("pjd: interrupted. What is finished stays; run it again to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
