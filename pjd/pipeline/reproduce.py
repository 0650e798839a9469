"""`make reproduce`: run what is out of date, and say what comes next and until when.

DVC decides what is out of date, and runs it. This module only gives it the stages in an order that
has the first pictures early, and runs stages of one core each side by side, a DVC process each.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from pjd.errors import ParameterError
from pjd.paths import REPORTS, ROOT, RUNS
from pjd.pipeline.clock import Clock
from pjd.pipeline.devices import listed_devices
from pjd.pipeline.dvc_process import Process, changed
from pjd.pipeline.files import write_json
from pjd.pipeline.lock import restore
from pjd.pipeline.notebook import PATIENT
from pjd.pipeline.params import parameters

TIMES = ROOT / "benchmarks" / "results" / "reproduce.json"
"""Seconds of every stage, written by ``--record``; times that are told are scaled from them."""

FIRST_PICTURES = REPORTS / "first_pictures.png"

LOOK = 0.2
"""Seconds between two looks at what DVC says."""

MOST = 4
"""DVC processes at once, at most: each needs some GB of memory."""


class Part(NamedTuple):
    """Stages that DVC is asked for together.

    Attributes:
        title: what a line calls them.
        stages: by DVC's names, in order.
        processes: of DVC at once, one per stage. It is not asked for what the stages depend on:
            that must be up to date, or they fail or are run again later. With 0, one process brings
            all of them up to date, with what they depend on.
    """

    title: str
    stages: list[str]
    processes: int = 0


def plan(values: dict[str, Any], times: dict[str, float]) -> list[Part]:
    """All parts, in order.

    Args:
        values: params.yaml.
        times: seconds of stages elsewhere. Of stages that run side by side, long ones come first,
            so that no core waits long for the last one; the first pictures come before them.

    Raises:
        ParameterError: if a run of the first pictures is none of the runs.
    """

    def longest_first(stages: list[str]) -> list[str]:
        return sorted(stages, key=lambda stage: -times.get(stage, 0.0))

    first, runs = values["first_pictures"], values["runs"]
    for name in first:
        if name not in runs:
            raise ParameterError("first_pictures", name, "must be names of `runs` in params.yaml")
    others = [f"decode@{run}" for run in runs if run not in first]
    cores = min(os.cpu_count() or 1, MOST)
    computing = cores
    if values["machine"]["device"] != "cpu":
        computing = max(1, len(listed_devices()))
    compared = [f"compare@{name}" for name in values["settings"]]
    evaluated = longest_first([f"evaluate@{run}" for run in runs])
    drawn = longest_first([f"draw@{name}" for name in values["figures"]])
    return [
        Part("what runs depend on", ["hash-decoder", "prepare"]),
        Part("the runs", [f"decode@{run}" for run in first] + longest_first(others), computing),
        Part("what measures them", ["hash-measures", "fit-probe"]),
        Part("what they are compared with", compared, computing),
        Part("their measurement", evaluated, computing),
        Part("the table of runs", ["collect", "hash-figures"]),
        Part("the figures", drawn, cores),
        Part("the report", ["report"]),
    ]


def only_lacks_inputs(changes: list[Any]) -> bool:
    """Whether a stage is out of date only since files that it reads are missing, as DVC tells."""
    return all(
        isinstance(change, dict)
        and change.keys() == {"changed deps"}
        and set(change["changed deps"].values()) == {"deleted"}
        for change in changes
    )


def due(part: Part, changes: dict[str, list[Any]]) -> Part:
    """The stages of ``part`` that will run, as far as one can tell.

    Args:
        part: with all its stages.
        changes: from :func:`pjd.pipeline.dvc_process.changed`, before anything has run. What only
            lacks inputs is not due: in a fresh clone, other stages make them as they were.
    """
    outdated = {stage for stage, told in changes.items() if not only_lacks_inputs(told)}
    runs_change = any(stage.partition("@")[0] in ("decode", "evaluate") for stage in outdated)

    def will_run(stage: str) -> bool:
        kind, _, name = stage.partition("@")
        return (
            stage in outdated
            or (kind == "evaluate" and f"decode@{name}" in outdated)
            or (kind in ("collect", "draw", "report") and runs_change)
        )

    return part._replace(stages=[stage for stage in part.stages if will_run(stage)])


def at_once(parts: list[Part]) -> dict[str, int]:
    """By stage, how many stages of its part run at once."""
    return {
        stage: max(1, min(part.processes, len(part.stages)))
        for part in parts
        for stage in part.stages
    }


def say(text: str) -> None:
    """Print a line with the time of day."""
    print(f"{datetime.now():%H:%M:%S}  {text}", flush=True)


def run_part(
    part: Part,
    clock: Clock,
    later: list[str],
    after: Callable[[list[str]], None] = lambda left: None,
) -> dict[str, float]:
    """Let DVC run a part, a line per stage that runs.

    Args:
        part: what to run.
        clock: says until when.
        later: stages that are due in the parts that follow.
        after: is called when a process has ended well, with the stages of the part that have not.

    Returns:
        Seconds of each stage that ran.

    Raises:
        ChildProcessError: if a stage failed, with the end of what was said; those that ran beside
            it are waited for.
    """
    left, took = list(part.stages), {}
    if part.processes:
        # To hear of one stage that it is up to date takes as long as to ask for all of its kind.
        outdated = changed({stage.partition("@")[0] for stage in part.stages})
        left = [stage for stage in part.stages if stage in outdated]

    def started(stage: str) -> None:
        done = clock.until([*left, *later])
        say(f"  {stage}; then {len(left) + len(later) - (stage in left)} more, until {done}")

    def ended(stage: str, seconds: float) -> None:
        took[stage] = seconds
        clock.ran(stage, seconds)
        if stage in left:
            left.remove(stage)

    waiting = [[stage] for stage in left] if part.processes else [left[:]]
    beside = min(max(1, part.processes), len(waiting))
    # Several stages share the cores: two threads of one would wait for each other.
    threads = 1 if beside > 1 else None
    running: list[Process] = []
    failed: list[Process] = []
    while running or (waiting and not failed):
        while waiting and not failed and len(running) < beside:
            running.append(Process(waiting.pop(0), bool(part.processes), threads))
        time.sleep(LOOK)
        for process in [one for one in running if not one.look(started, ended)]:
            running.remove(process)
            if process.failed:
                failed.append(process)
                continue
            # DVC does not name those that it has brought back from its cache.
            left[:] = [stage for stage in left if stage not in process.stages]
            after(left)
    if failed:
        raise ChildProcessError("\n".join(process.end_of_log() for process in failed))
    return took


def draw_first_pictures(runs: list[str]) -> None:
    """Draw the first pictures, unless they are there and newer than ``runs``; say where they are.

    In a process of its own: it computes beside stages, and its failure must not stop them.
    """
    made = [(RUNS / run / "decode").stat().st_mtime for run in runs]
    if FIRST_PICTURES.exists() and FIRST_PICTURES.stat().st_mtime >= max(made):
        return
    command = [sys.executable, "-m", "pjd.pipeline.first_pictures"]
    environment = {**os.environ, **PATIENT, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        why = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        say(f"  The first pictures cannot be drawn: {why[-1]}")
    else:
        say(f"  The first pictures: {FIRST_PICTURES}")


def reproduce(record: bool = False) -> None:
    """Run all parts; what is up to date is not run again.

    Args:
        record: afterwards write the seconds of every stage to ``TIMES``; those that did not run
            keep theirs, which may be another machine's.

    Raises:
        ChildProcessError: if a stage failed.
        ParameterError: see :func:`plan`.
    """
    outdated = changed()
    if not outdated:
        say("Everything is up to date.")
        return
    values = parameters()
    times = json.loads(TIMES.read_text())["seconds"] if TIMES.exists() else {}
    parts = plan(values, times)
    expected = [due(part, outdated) for part in parts]
    clock, began = Clock(at_once(parts) | at_once(expected), times), time.time()
    took: dict[str, float] = {}
    first = {f"decode@{run}" for run in values["first_pictures"]}

    tried: list[list[str]] = []

    def after(left: list[str]) -> None:
        if not tried and first.isdisjoint(left):
            tried.append(values["first_pictures"])
            draw_first_pictures(values["first_pictures"])

    for number, part in enumerate(parts):
        now = expected[number].stages
        later = [stage for following in expected[number + 1 :] for stage in following.stages]
        say(
            f"{number + 1}/{len(parts)}: {part.title}, until {clock.until(now)}; all done at "
            f"about {clock.until([*now, *later])}"
        )
        decodes = first.issubset(part.stages)
        took |= run_part(part, clock, later, after if decodes else lambda left: None)
    say(f"Done in {(time.time() - began) / 60:.1f} minutes.")
    if record:
        measured = times | {stage: round(seconds, 1) for stage, seconds in took.items()}
        stages = {stage for part in parts for stage in part.stages} | took.keys()
        write_times({stage: measured[stage] for stage in measured if stage in stages})


def write_times(seconds: dict[str, float]) -> None:
    """Write :data:`TIMES`, with the circumstances of now."""
    # It imports torch, which `make reproduce` need not wait for.
    from pjd.pipeline.runs import provenance

    write_json(TIMES, provenance(seconds=seconds))


def main(arguments: list[str] | None = None) -> int:
    """Command line: ``python -m pjd.pipeline.reproduce``."""
    parser = argparse.ArgumentParser(prog="pjd.pipeline.reproduce", description=__doc__)
    parser.add_argument("--record", action="store_true", help=f"write {TIMES.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    try:
        said = restore()
        if said:
            say(said)
        reproduce(options.record)
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
