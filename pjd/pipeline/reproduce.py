"""`make reproduce`: decode the main runs, draw everything, and say what comes next and until when.

DVC decides what is out of date, and runs it. This module only gives it the stages in an order that
has the first pictures early, and runs stages of one core each side by side, a DVC process each.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from pjd.errors import one_line
from pjd.paths import REPORTS, ROOT, RUNS
from pjd.pipeline.clock import Clock
from pjd.pipeline.devices import listed_devices
from pjd.pipeline.dvc_process import Process, changed, pull
from pjd.pipeline.files import read_run, write_json
from pjd.pipeline.lock import restore
from pjd.pipeline.notebook import PATIENT
from pjd.pipeline.params import parameters
from pjd.pipeline.runs import provenance

TIMES = ROOT / "benchmarks" / "results" / "reproduce.json"
"""Seconds of every stage, written by ``--record``; times that are told are scaled from them."""

FIRST_PICTURES = REPORTS / "first_pictures.png"

SHIPPED = ("decode", "fit-probe", "compare", "evaluate")
"""Groups of stages of which some items come with the repository."""

LOOK = 0.2
"""Seconds between two looks at what DVC says."""

MOST = 4
"""DVC processes at once, at most: each needs some GB of memory."""


class Part(NamedTuple):
    """Stages that DVC is asked for together.

    Attributes:
        title: what a line calls them.
        stages: by DVC's names, in order.
        processes: of DVC at once, one per stage; what the stages depend on must be up to date. With
            0, one process brings all of them up to date, with what they depend on.
        shipped: groups of stages, whose items that come with the repository are checked out first.
    """

    title: str
    stages: list[str]
    processes: int = 0
    shipped: tuple[str, ...] = ()


def plan(
    values: dict[str, Any], everything: bool = False, times: dict[str, float] | None = None
) -> list[Part]:
    """All parts, in order.

    Args:
        values: params.yaml.
        everything: decode and measure all runs, not only those of the group "main".
        times: seconds of stages elsewhere. Of stages that run side by side, long ones come first,
            so that no core waits for the last one; those of the first pictures come before them.
    """
    known = times or {}

    def longest_first(stages: list[str]) -> list[str]:
        return sorted(stages, key=lambda stage: -known.get(stage, 0.0))

    runs = {k: v for k, v in values["runs"].items() if everything or v["group"] == "main"}
    first = values["first_pictures"]
    others = [f"decode@{run}" for run in runs if run not in first]
    settings = dict.fromkeys(run["setting"] for run in runs.values())
    cores = min(os.cpu_count() or 1, MOST)
    on_cpu = values["machine"]["device"] == "cpu"
    # On a CPU one thread each: two threads of a process would wait for each other.
    computing = cores if on_cpu else max(1, len(listed_devices()))
    decoding = [*(f"decode@{run}" for run in first), *longest_first(others)]
    shipped = () if everything else SHIPPED
    figures = longest_first([f"draw@{name}" for name in values["figures"]])
    return [
        Part("what runs depend on", ["hash-decoder", "prepare"]),
        Part("the runs", decoding, computing),
        Part("what measures them", ["hash-measures", "fit-probe"], shipped=shipped),
        Part("what they are compared with", [f"compare@{name}" for name in settings], computing),
        Part("their measurement", [f"evaluate@{run}" for run in runs], computing),
        Part("the table of runs", ["collect", "hash-figures"]),
        Part("the figures", figures, cores),
        Part("the report", ["report"]),
    ]


def at_once(parts: list[Part]) -> dict[str, int]:
    """By stage, how many stages of its part run at once."""
    return {stage: max(1, part.processes) for part in parts for stage in part.stages}


def say(text: str) -> None:
    """Print a line with the time of day."""
    print(f"{datetime.now():%H:%M:%S}  {text}", flush=True)


def run_part(
    part: Part,
    clock: Clock,
    later: list[str],
    after: Callable[[str, list[str]], None] = lambda stage, left: None,
) -> dict[str, float]:
    """Let DVC run a part, a line per stage that runs.

    Args:
        part: what to run.
        clock: says until when.
        later: stages of the parts that follow.
        after: is told each stage that has ended, and those of the part that have not.

    Returns:
        Seconds of each stage that ran.

    Raises:
        ChildProcessError: if a stage failed, with the end of what was said; those that ran beside
            it are waited for.
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

    if part.processes:
        # To hear of one stage that it is up to date takes as long as to ask for all of its kind.
        outdated = changed({stage.partition("@")[0] for stage in part.stages})
        left = [stage for stage in part.stages if stage in outdated]
    waiting = [[stage] for stage in left] if part.processes else [left[:]]
    running: list[Process] = []
    failed: list[Process] = []
    while running or (waiting and not failed):
        while waiting and not failed and len(running) < max(1, part.processes):
            running.append(Process(waiting.pop(0), part.processes))
        time.sleep(LOOK)
        for process in running[:]:
            if process.look(started, ended):
                continue
            running.remove(process)
            if process.process.returncode:
                failed.append(process)
            else:
                after(process.stages[-1], left)
    for process in failed:
        end = process.log.read_text(errors="replace").splitlines()[-25:]
        raise ChildProcessError("\n".join([*end, f"(all of it: {process.log})"]))
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
        record: afterwards write the seconds of every stage to ``TIMES``; those that did not run
            keep theirs.

    Raises:
        ChildProcessError: if a stage failed.
    """
    if not changed():
        say("Everything is up to date.")
        return
    values = parameters()
    times = json.loads(TIMES.read_text())["seconds"] if TIMES.exists() else {}
    parts = plan(values, everything, times)
    clock, began = Clock(at_once(parts), times), time.time()
    took: dict[str, float] = {}
    first = {f"decode@{run}" for run in values["first_pictures"]}

    def show(stage: str, left: list[str]) -> None:
        if stage not in first or not first.isdisjoint(left):
            return
        try:
            draw_first_pictures(values["first_pictures"])
        # They are a glimpse, and stages run beside them: those must not be left alone.
        except Exception as error:
            say(f"  The first pictures cannot be drawn: {one_line(error)}")
        else:
            say(f"  The first pictures: {FIRST_PICTURES}")

    for number, part in enumerate(parts, 1):
        later = [stage for following in parts[number:] for stage in following.stages]
        say(
            f"{number}/{len(parts)}: {part.title}, until {clock.until(part.stages)}; all done at "
            f"about {clock.until([*part.stages, *later])}"
        )
        if part.shipped and not pull(part.shipped):
            say("  Not everything was checked out (see above): going on with what is here.")
        took |= run_part(part, clock, later, show)
    say(f"Done in {(time.time() - began) / 60:.1f} minutes.")
    if record:
        seconds = times | {stage: round(of_stage, 1) for stage, of_stage in took.items()}
        write_json(TIMES, provenance(seconds=seconds))


def main(arguments: list[str] | None = None) -> int:
    """Command line: ``python -m pjd.pipeline.reproduce``."""
    parser = argparse.ArgumentParser(prog="pjd.pipeline.reproduce", description=__doc__)
    parser.add_argument("--everything", action="store_true", help="decode all runs, not the main")
    parser.add_argument("--record", action="store_true", help=f"write {TIMES.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    # The first pictures are drawn here, beside two stages that compute.
    os.environ.update(PATIENT | os.environ)
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
