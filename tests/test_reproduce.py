"""`make reproduce` asks DVC for stages that exist, says until when, and stops at a failure."""

import sys

import pytest
import yaml

from pjd.paths import ROOT
from pjd.pipeline import clock as clocks
from pjd.pipeline import dvc_process, reproduce
from pjd.pipeline.clock import Clock
from pjd.pipeline.params import parameters
from pjd.pipeline.reproduce import Part, at_once, plan, run_part

MACHINE = {"device": "cpu", "dtype": "float32", "threads": 2}


@pytest.fixture
def fake_dvc(tmp_path, monkeypatch):
    """A DVC that runs each stage it is asked for, of which "old" is up to date and "bad" fails."""
    script = tmp_path / "dvc"
    script.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "if sys.argv[2] == 'status':\n"
        "    known = ('a', 'b', 'c', 'bad', 'decode@ar')\n"
        "    sys.exit(print(json.dumps(dict.fromkeys(known))))\n"
        "print('threads', os.environ.get('PJD_THREADS'))\n"
        "for stage in sys.argv[3:]:\n"
        "    if not stage.startswith('-'):\n"
        "        print(f\"Running stage '{stage}':\", flush=True)\n"
        "        if stage == 'bad': sys.exit('it is broken')\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(dvc_process, "dvc", lambda: str(script))
    monkeypatch.setattr(dvc_process, "LOGS", tmp_path / "logs")


@pytest.mark.parametrize("everything", [False, True])
def test_every_stage_that_is_asked_for_is_one_of_dvc(everything):
    from dvc.repo import Repo

    known = {stage.addressing for stage in Repo(ROOT).index.stages}
    asked = [stage for part in plan(parameters(), everything) for stage in part.stages]
    assert len(asked) == len(set(asked)) and set(asked) - {"prepare"} <= known
    decoded = {stage for stage in asked if stage.startswith("decode@")}
    runs = parameters()["runs"]
    main = {f"decode@{name}" for name, run in runs.items() if run["group"] == "main"}
    assert decoded == ({f"decode@{name}" for name in runs} if everything else main)


def test_the_first_pictures_come_first():
    values = parameters()
    for profile in ("smoke", "paper"):
        laid_over = yaml.safe_load((ROOT / "profiles" / f"{profile}.yaml").read_text())
        runs = laid_over.get("runs", values["runs"])
        shown = laid_over.get("first_pictures", values["first_pictures"])
        assert all(runs[run]["group"] == "main" for run in shown)
    decodes = [stage for part in plan(values) for stage in part.stages if "decode@" in stage]
    assert decodes[:2] == [f"decode@{run}" for run in values["first_pictures"]]


def test_on_gpus_as_many_stages_as_devices_run_at_once(monkeypatch):
    values = parameters() | {"machine": {**MACHINE, "device": "cuda"}}

    def processes() -> set[int]:
        return {part.processes for part in plan(values) if part.stages[0].startswith("decode@")}

    monkeypatch.delenv("PJD_DEVICES", raising=False)
    assert processes() == {1}
    monkeypatch.setenv("PJD_DEVICES", "0,1,2")
    assert processes() == {3}


def test_the_time_is_that_of_other_machines_scaled_by_what_was_seen():
    parts = [Part("runs", ["decode@a", "decode@b", "decode@new"]), Part("figures", ["draw@x"], 2)]
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


def test_no_process_is_started_for_what_is_up_to_date(fake_dvc):
    part, heard = Part("runs", ["a", "old", "b"], 1), []
    ran = run_part(
        part, Clock(at_once([part]), {}), [], lambda stage, left: heard.append((stage, list(left)))
    )
    assert set(ran) == {"a", "b"} and heard == [("a", ["b"]), ("b", [])]


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
    assert dvc_process.changed(["decode"]) == {"a"} and not busy.exists()
    with pytest.raises(ChildProcessError, match=r"^ERROR: no file$"):
        dvc_process.changed()
    busy.touch()
    monkeypatch.setattr(dvc_process, "PATIENCE", -1.0)
    with pytest.raises(ChildProcessError, match=r"^ERROR: run is busy$"):
        dvc_process.changed(["decode"])


def test_of_stages_side_by_side_the_longest_come_first():
    values = parameters()
    runs = [name for name, run in values["runs"].items() if run["group"] == "main"]
    times = {f"decode@{run}": float(k) for k, run in enumerate(runs)}
    decoded = next(part.stages for part in plan(values, times=times) if part.title == "the runs")
    first = [f"decode@{run}" for run in values["first_pictures"]]
    assert decoded == first + [
        f"decode@{run}" for run in runs[::-1] if f"decode@{run}" not in first
    ]


@pytest.mark.parametrize("processes", [0, 1, 2])
def test_a_stage_that_fails_stops_all_and_is_shown(fake_dvc, processes):
    part = Part("runs", ["a", "bad", "b", "c"], processes)
    with pytest.raises(ChildProcessError, match=r"'bad'(.|\n)*it is broken(.|\n)*log"):
        run_part(part, Clock(at_once([part]), {}), [])
    assert "c" not in {log.name.removesuffix(".log") for log in dvc_process.LOGS.iterdir()}


@pytest.mark.parametrize("error", [None, OSError("no space left")])
def test_first_pictures_are_drawn_once_and_stop_nothing(
    fake_dvc, monkeypatch, tmp_path, capsys, error
):
    drawn = []

    def draw(runs: list[str]) -> None:
        drawn.append(runs)
        if error is not None:
            raise error

    parts = [Part("the runs", ["decode@ar", "a", "b"], 1), Part("the report", ["c"])]
    monkeypatch.setattr(reproduce, "plan", lambda *_: parts)
    monkeypatch.setattr(reproduce, "parameters", lambda: {"first_pictures": ["ar"]})
    monkeypatch.setattr(reproduce, "TIMES", tmp_path / "none.json")
    monkeypatch.setattr(reproduce, "draw_first_pictures", draw)
    reproduce.reproduce()
    said = capsys.readouterr().out
    told = "The first pictures" if error is None else "cannot be drawn: no space left"
    assert drawn == [["ar"]] and said.index(told) < said.index("  a;") and "Done in" in said


def test_what_is_finished_is_said_to_stay(monkeypatch, capsys):
    def fail(everything: bool, record: bool) -> None:
        raise ChildProcessError("it is broken")

    monkeypatch.setattr(reproduce, "reproduce", fail)
    monkeypatch.setattr(reproduce, "restore", lambda: None)
    assert reproduce.main([]) == 1
    assert "it is broken" in (said := capsys.readouterr().err) and "go on" in said
