"""`make reproduce` asks DVC for stages that exist, says until when, and stops at a failure."""

import json
import subprocess
import sys

import pytest
import yaml

from pjd.errors import ParameterError
from pjd.paths import ROOT
from pjd.pipeline import clock as clocks
from pjd.pipeline import dvc_process, reproduce
from pjd.pipeline.clock import Clock
from pjd.pipeline.params import parameters
from pjd.pipeline.reproduce import Part, at_once, due, plan, run_part

MACHINE = {"device": "cpu", "dtype": "float32", "threads": 2}


@pytest.fixture
def fake_dvc(tmp_path, monkeypatch):
    """A DVC that runs each stage it is asked for, or takes "cached" from its cache.

    "old" is up to date, and "bad" fails.
    """
    script = tmp_path / "dvc"
    known = {
        s: ["changed command"] for s in ("a", "b", "c", "bad", "cached", "decode@ar", "decode@x")
    }
    script.write_text(
        f"#!{sys.executable}\n"
        "import os, sys\n"
        "if sys.argv[2] == 'status':\n"
        f"    sys.exit(print({json.dumps(known)!r}))\n"
        "print('threads', os.environ.get('PJD_THREADS'))\n"
        "for stage in sys.argv[3:]:\n"
        "    if stage == 'cached': print('it is cached', flush=True)\n"
        "    elif not stage.startswith('-'):\n"
        "        print(f\"Running stage '{stage}':\", flush=True)\n"
        "        if stage == 'bad': sys.exit('it is broken')\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(dvc_process, "dvc", lambda: str(script))
    monkeypatch.setattr(dvc_process, "LOGS", tmp_path / "logs")


def test_every_stage_that_is_asked_for_is_one_of_dvc():
    from dvc.repo import Repo

    known = {stage.addressing for stage in Repo(ROOT).index.stages}
    asked = [stage for part in plan(parameters(), {}) for stage in part.stages]
    assert len(asked) == len(set(asked)) and set(asked) - {"prepare"} <= known
    for kind, items in (("decode", "runs"), ("evaluate", "runs"), ("compare", "settings")):
        every = {f"{kind}@{name}" for name in parameters()[items]}
        assert {stage for stage in asked if stage.startswith(f"{kind}@")} == every


def test_the_first_pictures_come_first():
    values = parameters()
    for profile in ("smoke", "paper"):
        laid_over = yaml.safe_load((ROOT / "profiles" / f"{profile}.yaml").read_text())
        runs = laid_over.get("runs", values["runs"])
        shown = laid_over.get("first_pictures", values["first_pictures"])
        assert all(runs[run]["group"] == "main" for run in shown)
    decodes = [stage for part in plan(values, {}) for stage in part.stages if "decode@" in stage]
    assert decodes[:2] == [f"decode@{run}" for run in values["first_pictures"]]
    with pytest.raises(ParameterError, match="first_pictures = 'none'"):
        plan(values | {"first_pictures": ["none"]}, {})


def test_on_gpus_as_many_stages_as_devices_run_at_once(monkeypatch):
    values = parameters() | {"machine": {**MACHINE, "device": "cuda"}}

    def processes() -> set[int]:
        return {part.processes for part in plan(values, {}) if part.stages[0].startswith("decode@")}

    monkeypatch.delenv("PJD_DEVICES", raising=False)
    assert processes() == {1}
    monkeypatch.setenv("PJD_DEVICES", "0,1,2")
    assert processes() == {3}


def test_the_time_is_that_of_other_machines_scaled_by_what_was_seen():
    parts = [
        Part("runs", ["decode@a", "decode@b", "decode@new"]),
        Part("figures", ["draw@x", "draw@y"], 2),
    ]
    clock = Clock(at_once(parts), {"decode@a": 100.0, "decode@b": 300.0, "draw@x": 8.0})
    assert clock.of("decode@b") == 300 and clock.of("draw@x") == 4
    # One that was never timed takes as long as others of its kind.
    assert clock.of("decode@new") == 200
    clock.ran("decode@a", 260.0)
    assert (clock.spent + clocks.STEADY) / (clock.expected + clocks.STEADY) == 2


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_a_part_runs_all_its_stages(fake_dvc, processes, capsys):
    part = Part("runs", ["a", "b", "c"], processes)
    clock = Clock(at_once([part, Part("report", ["d"])]), {})
    assert set(run_part(part, clock, ["d"])) == {"a", "b", "c"}
    assert capsys.readouterr().out.count("until") == 3
    told = [log.read_text() for log in dvc_process.LOGS.iterdir()]
    # One process for all, or one per stage.
    assert [("threads 1" in words) for words in told] == [processes > 1] * (3 if processes else 1)


def test_one_stage_alone_has_all_threads(fake_dvc):
    part = Part("runs", ["old", "a"], 2)
    run_part(part, Clock(at_once([part]), {}), [])
    assert "threads None" in (dvc_process.LOGS / "a.log").read_text()


def test_no_process_is_started_for_what_is_up_to_date(fake_dvc):
    part, heard = Part("runs", ["a", "old", "cached", "b"], 1), []
    clock = Clock(at_once([part]), {})
    ran = run_part(part, clock, [], lambda left: heard.append(list(left)))
    # What comes from the cache has not run, and is not left either.
    assert set(ran) == {"a", "b"} and heard == [["cached", "b"], ["b"], []]


def test_what_is_due_is_what_is_out_of_date_and_what_depends_on_it():
    part = Part("x", ["decode@a", "decode@b", "evaluate@a", "evaluate@b", "draw@f", "report"])
    command, lost = ["changed command"], [{"changed outs": {"runs/a": "deleted"}}]
    # In a fresh clone, what is pulled lacks the hash of the code, and is as it was.
    lacks = [{"changed deps": {"results/decoder.json": "deleted"}}]
    told = {"decode@a": lacks + lost, "decode@b": lacks, "evaluate@b": lacks}
    assert due(part, told).stages == ["decode@a", "evaluate@a", "draw@f", "report"]
    assert due(part, {"draw@f": command}).stages == ["draw@f"]
    edited = [{"changed deps": {"results/decoder.json": "modified"}}]
    assert "decode@b" in due(part, {"decode@b": edited}).stages
    assert due(part, {}).stages == []


def test_of_stages_side_by_side_the_longest_come_first():
    values = parameters()
    times = {f"decode@{run}": float(k) for k, run in enumerate(values["runs"])}
    decoded = next(part.stages for part in plan(values, times) if part.title == "the runs")
    first = [f"decode@{run}" for run in values["first_pictures"]]
    assert decoded == first + [stage for stage in reversed(times) if stage not in first]


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_a_stage_that_fails_stops_all_and_is_shown(fake_dvc, processes):
    part, heard = Part("runs", ["bad", "a", "b", "c"], processes), []
    with pytest.raises(ChildProcessError, match=r"'bad'(.|\n)*it is broken(.|\n)*log"):
        run_part(part, Clock(at_once([part]), {}), [], lambda left: heard.append(list(left)))
    assert "c" not in {log.name.removesuffix(".log") for log in dvc_process.LOGS.iterdir()}
    # It is not taken for finished by what is told of those beside it.
    assert all("bad" in left for left in heard) and (processes != 1 or not heard)


def test_files_of_a_killed_process_are_waited_for(tmp_path, monkeypatch):
    busy, script = tmp_path / "busy", tmp_path / "dvc"
    script.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\n"
        f"busy = pathlib.Path({str(busy)!r})\n"
        "if busy.exists():\n"
        "    busy.unlink()\n"
        "    sys.exit('WARNING: it is frozen\\nERROR: run is busy')\n"
        "sys.exit(print('{\"a\": []}') if sys.argv[4:] else 'ERROR: no file')\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(dvc_process, "dvc", lambda: str(script))
    monkeypatch.setattr(dvc_process.time, "sleep", lambda seconds: None)
    busy.touch()
    assert dvc_process.changed(["decode"]) == {"a": []} and not busy.exists()
    with pytest.raises(ChildProcessError, match=r"status: 1\nERROR: no file$"):
        dvc_process.changed()
    busy.touch()
    monkeypatch.setattr(dvc_process, "PATIENCE", -1.0)
    with pytest.raises(ChildProcessError, match=r"ERROR: run is busy$"):
        dvc_process.changed(["decode"])


@pytest.mark.parametrize("script", ["print('drawn')", "raise OSError('no space left')"])
def test_first_pictures_are_drawn_once_and_stop_nothing(
    fake_dvc, monkeypatch, tmp_path, capsys, script
):
    asked = []
    run = subprocess.run

    def draw(command: list[str], **options: object) -> subprocess.CompletedProcess:
        if command[1] != "-m":
            return run(command, **options)
        asked.append(command[2])
        return run([sys.executable, "-c", script], capture_output=True, text=True)

    parts = [Part("the runs", ["decode@ar", "decode@x", "a"], 1), Part("the report", ["c"])]
    (tmp_path / "ar" / "decode").mkdir(parents=True)
    monkeypatch.setattr(reproduce, "plan", lambda *_: parts)
    monkeypatch.setattr(reproduce, "parameters", lambda: {"first_pictures": ["ar"]})
    monkeypatch.setattr(reproduce, "TIMES", tmp_path / "none.json")
    monkeypatch.setattr(reproduce, "RUNS", tmp_path)
    monkeypatch.setattr(reproduce, "FIRST_PICTURES", tmp_path / "first.png")
    monkeypatch.setattr(subprocess, "run", draw)
    reproduce.reproduce()
    said = capsys.readouterr().out
    told = "first pictures: " if "drawn" in script else "cannot be drawn: OSError: no space left"
    assert asked == ["pjd.pipeline.first_pictures"] and "Done in" in said
    assert said.index("  decode@ar;") < said.index(told) < said.index("  decode@x;")


def test_first_pictures_that_are_newer_than_their_runs_stay(tmp_path, monkeypatch):
    (tmp_path / "ar" / "decode").mkdir(parents=True)
    (tmp_path / "first.png").touch()
    monkeypatch.setattr(reproduce, "RUNS", tmp_path)
    monkeypatch.setattr(reproduce, "FIRST_PICTURES", tmp_path / "first.png")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it is drawn"))
    reproduce.draw_first_pictures(["ar"])


def test_what_is_finished_is_said_to_stay(monkeypatch, capsys):
    def fail(record: bool) -> None:
        raise ChildProcessError("it is broken")

    monkeypatch.setattr(reproduce, "reproduce", fail)
    monkeypatch.setattr(reproduce, "restore", lambda: None)
    assert reproduce.main([]) == 1
    assert "it is broken" in (said := capsys.readouterr().err) and "go on" in said
