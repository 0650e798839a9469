"""Many images: names, resumption, failures, and workers that are lost."""

import errno
import json
import os
import signal
import sys
import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from pjd import jobs
from pjd.api import generate
from pjd.decoder.methods import configure
from pjd.jobs import Job, attempt, is_made, plan, run, run_remote, save
from tests.tiny import tiny_model

CONFIG = configure("zipar", context=2)
ORIGIN = {"model": "emoji-64", "weights": "0123", "dtype": "float32"}


def test_names_differ_where_the_image_would():
    listed = plan(["cat", "dog"], 2, ORIGIN, CONFIG)
    assert [(job.prompt, job.seed) for job in listed] == [
        ("cat", 0),
        ("cat", 1),
        ("dog", 2),
        ("dog", 3),
    ]
    names = {job.name for job in listed}
    for key in ORIGIN:
        other = plan(["cat", "dog"], 2, {**ORIGIN, key: "other"}, CONFIG)
        names |= {job.name for job in other}
    other = configure("zipar", context=3)
    names |= {job.name for job in plan(["cat", "dog"], 2, ORIGIN, other)}
    assert len(names) == 20
    # Another first seed moves the seeds; the same seed of the same prompt is the same image.
    assert plan(["cat"], 1, ORIGIN, CONFIG)[0].name == listed[0].name


def test_an_image_says_what_it_was_made_from(tmp_path):
    model = tiny_model(grid=4, vocabulary=7)
    (job,) = plan(["red cat\n🐈"], 1, ORIGIN, configure("sjd", seed=5))
    ((done, result),) = attempt(model, [job], configure("sjd", seed=5))
    save(tmp_path, done, result, {"device": "cpu"})
    told = json.loads(Image.open(tmp_path / job.name).text["pjd"])
    assert told["prompt"] == "red cat\n🐈" and told["config"]["seed"] == 5
    assert told["steps"] == int(result.steps[0])
    assert {key: told[key] for key in ORIGIN} == ORIGIN and told["made_with"] == {"device": "cpu"}
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_is_named_and_leaves_no_half_image(tmp_path, monkeypatch):
    (job,) = plan(["cat"], 1, ORIGIN, CONFIG)
    ((done, result),) = attempt(tiny_model(), [job], CONFIG)

    def full(image: Image.Image, path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match=f"No space left on device.*{job.name}"):
        save(tmp_path, done, result, {"device": "cpu"})
    assert not list(tmp_path.iterdir())


def made(folder: Path, prompts: list[str]) -> list[Job]:
    """Images of a tiny model, saved in ``folder``."""
    listed = plan(prompts, 1, ORIGIN, CONFIG)
    for done, result in attempt(tiny_model(), listed, CONFIG):
        save(folder, done, result, {})
    return listed


def spoil(path: Path, kept: slice, more: bytes) -> None:
    """Replace a part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[kept] + more)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b""),
        lambda path: spoil(path, slice(0, 40), b""),
        lambda path: spoil(path, slice(0, -20), b""),
        lambda path: spoil(path, slice(0, -30), bytes(30)),
        lambda path: Image.new("RGB", (8, 8)).save(path),
        lambda path: Image.new("RGB", (8, 8)).save(path, "JPEG"),
        lambda path: path.write_text("not a picture"),
        lambda path: path.unlink(),
    ],
)
def test_a_file_that_is_no_whole_image_of_this_kind_does_not_count(tmp_path, change):
    first, second = made(tmp_path, ["cat", "dog"])
    assert is_made(tmp_path, first) and is_made(tmp_path, second)
    change(tmp_path / first.name)
    assert not is_made(tmp_path, first) and is_made(tmp_path, second)
    # Whole, but of something else.
    (tmp_path / second.name).replace(tmp_path / first.name)
    assert not is_made(tmp_path, first)
    made(tmp_path, ["cat", "dog"])
    assert is_made(tmp_path, first) and is_made(tmp_path, second)


def test_the_loser_of_a_race_keeps_the_winners_file(tmp_path):
    (job,) = made(tmp_path, ["cat"])
    before = (tmp_path / job.name).stat()
    made(tmp_path, ["cat"])
    after = (tmp_path / job.name).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert [path.name for path in tmp_path.iterdir()] == [job.name]


def test_many_writers_of_one_folder_do_not_meet(tmp_path):
    prompts = [f"cat {number}" for number in range(8)]
    writers = [threading.Thread(target=made, args=(tmp_path, prompts)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    listed = plan(prompts, 1, ORIGIN, CONFIG)
    assert sorted(path.name for path in tmp_path.iterdir()) == [job.name for job in listed]
    assert all(is_made(tmp_path, job) for job in listed)


def test_progress_is_told_of_or_shown_and_changes_nothing(capsys):
    model, told = tiny_model(grid=4, vocabulary=7), []
    options = {"context": 2, "batch_size": 2, "seed": 1}
    plain = generate(model, ["cat", "dog", "red"], "zipar", **options)
    for progress in (lambda *news: told.append(news), True):
        result = generate(model, ["cat", "dog", "red"], "zipar", progress=progress, **options)
        assert torch.equal(result.tokens, plain.tokens)
    # A 4x4 grid: rows start two codes apart, so that a batch takes 4 + 3 * 2 steps.
    assert sum(images for images, _, _ in told) == 3
    assert [(steps, pace) for _, steps, pace in told if steps == 10] == [(10, 1.6)] * 2
    shown = capsys.readouterr().err
    assert "48/48" in shown and "steps=10" in shown and "tokens_per_step=1.6" in shown


def test_a_failing_prompt_costs_no_other(monkeypatch):
    model = tiny_model(grid=4, vocabulary=7)
    encode = model.encode

    def fails(prompts, guided):
        if "dog" in prompts:
            raise RuntimeError("out of memory")
        return encode(prompts, guided)

    monkeypatch.setattr(model, "encode", fails)
    listed = plan(["cat", "dog", "red"], 1, ORIGIN, CONFIG)
    outcomes = list(attempt(model, listed, CONFIG))
    failed = {done[0].prompt for done, result in outcomes if isinstance(result, Exception)}
    assert failed == {"dog"} and len(outcomes) == 3


def test_a_failed_batch_is_let_go_before_its_images_are_tried_alone(monkeypatch):
    model = tiny_model(grid=4, vocabulary=7)
    encode, failed, alive = model.encode, [], []

    def fails(prompts, guided):
        alive.append(sum(tensor() is not None for tensor in failed))
        if len(prompts) > 1 or prompts == ["dog"]:
            large = torch.zeros(1000)
            failed.append(weakref.ref(large))
            raise RuntimeError("out of memory")
        return encode(prompts, guided)

    monkeypatch.setattr(model, "encode", fails)
    listed = plan(["dog", "cat", "red"], 1, ORIGIN, CONFIG)
    outcomes = list(attempt(model, listed, CONFIG))
    assert len(failed) == 2 and len(outcomes) == 3
    assert alive == [0, 0, 0, 0]


@pytest.mark.slow
def test_a_lost_workers_batch_is_done_again_and_nothing_differs():
    prompts = ["cat face, noto, on teal", "rainbow, twemoji, on white", "dog, openmoji, on white"]
    listed = plan(prompts, 2, ORIGIN, CONFIG)
    alone = {}
    for done, result in run("emoji-64", listed, CONFIG, batch_size=2):
        alone |= {job.number: result.tokens[i] for i, job in enumerate(done)}

    killed = []

    def kill_one(processes):
        def later():
            # In the middle of its first batch, which takes longer than this.
            time.sleep(0.1)
            os.kill(processes[0], signal.SIGKILL)
            killed.append(processes[0])

        threading.Thread(target=later).start()

    batches = [listed[first : first + 2] for first in range(0, 6, 2)]
    together = {}
    for outcomes in run_remote("emoji-64", batches, CONFIG, 2, {}, kill_one):
        done, result = outcomes
        assert not isinstance(result, Exception), result
        together |= {job.number: result.tokens[i] for i, job in enumerate(done)}
    assert killed and set(together) == set(alone) == set(range(6))
    for number, tokens in alone.items():
        assert torch.equal(tokens, together[number])


@pytest.mark.slow
def test_workers_refuse_once_what_does_not_fit_the_model():
    config = configure("pjd", rows=17)
    listed = plan(["cat face, noto, on teal"], 4, ORIGIN, config)
    with pytest.raises(jobs.ParameterError, match=r"^rows = 17: must be an integer from 1 to 16$"):
        list(run("emoji-64", listed, config, batch_size=1, workers=2))


def test_workers_without_ray_are_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(jobs.ParameterError, match=r"workers = 2: .*pjd\[ray\]"):
        list(run("emoji-64", [], CONFIG, workers=2))


def test_ray_that_does_not_start_is_one_line(monkeypatch):
    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nMore.")

    monkeypatch.setitem(
        sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init)
    )
    with pytest.raises(jobs.ParameterError, match=r"workers = 2: Ray does not start .*timed out"):
        list(run("emoji-64", [], CONFIG, workers=2))


def test_more_workers_than_gpus_are_refused_and_not_waited_for(monkeypatch):
    stand_in = SimpleNamespace(
        is_initialized=lambda: True,
        cluster_resources=lambda: {"CPU": 8.0, "GPU": 1.0},
        remote=lambda **_: lambda worker: SimpleNamespace(remote=pytest.fail),
    )
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    with pytest.raises(jobs.ParameterError, match="workers = 2: more than the 1 GPUs that Ray has"):
        list(run("emoji-64", [], CONFIG, workers=2, device="cuda"))
