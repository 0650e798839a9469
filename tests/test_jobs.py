"""Many images: names, resumption, failures, and workers that are lost."""

import errno
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import tiny_model

from pjd import jobs
from pjd.jobs import attempt, plan, run, run_remote, save
from pjd.methods import configure

CONFIG = configure("zipar", context=2)


def test_names_differ_where_the_image_would():
    listed = plan(["cat", "dog"], 2, "emoji-64", CONFIG)
    assert [(job.prompt, job.seed) for job in listed] == [
        ("cat", 0),
        ("cat", 1),
        ("dog", 2),
        ("dog", 3),
    ]
    names = {job.name for job in listed}
    names |= {job.name for job in plan(["cat", "dog"], 2, "emoji-96", CONFIG)}
    other = configure("zipar", context=3)
    names |= {job.name for job in plan(["cat", "dog"], 2, "emoji-64", other)}
    assert len(names) == 12
    # Another first seed moves the seeds; the same seed of the same prompt is the same image.
    assert plan(["cat"], 1, "emoji-64", CONFIG)[0].name == listed[0].name


def test_an_image_says_what_it_was_made_from(tmp_path):
    model = tiny_model(grid=4, vocabulary=7)
    (job,) = plan(["red cat\n🐈"], 1, "tiny", configure("sjd", seed=5))
    ((done, result),) = attempt(model, [job], "sjd", {})
    save(tmp_path, done, result, "tiny")
    made = json.loads(Image.open(tmp_path / job.name).text["pjd"])
    assert made["prompt"] == "red cat\n🐈" and made["config"]["seed"] == 5
    assert made["steps"] == int(result.steps[0])
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_is_named_and_leaves_no_half_image(tmp_path, monkeypatch):
    (job,) = plan(["cat"], 1, "tiny", CONFIG)
    ((done, result),) = attempt(tiny_model(), [job], "zipar", {"context": 2})

    def full(image: Image.Image, path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match=f"No space left on device.*{job.name}"):
        save(tmp_path, done, result, "tiny")
    assert not list(tmp_path.iterdir())


def test_a_failing_prompt_costs_no_other(monkeypatch):
    model = tiny_model(grid=4, vocabulary=7)
    encode = model.encode

    def fails(prompts, guided):
        if "dog" in prompts:
            raise RuntimeError("out of memory")
        return encode(prompts, guided)

    monkeypatch.setattr(model, "encode", fails)
    listed = plan(["cat", "dog", "red"], 1, "tiny", CONFIG)
    outcomes = list(attempt(model, listed, "zipar", {"context": 2}))
    failed = {done[0].prompt for done, result in outcomes if isinstance(result, Exception)}
    assert failed == {"dog"} and len(outcomes) == 3


@pytest.mark.slow
def test_a_lost_workers_batch_is_done_again_and_nothing_differs():
    prompts = ["cat face, noto, on teal", "rainbow, twemoji, on white", "dog, openmoji, on white"]
    listed = plan(prompts, 2, "emoji-64", CONFIG)
    options = {"context": 2}
    alone = {}
    for done, result in run("emoji-64", listed, "zipar", options, batch_size=2):
        alone |= {job.number: result.tokens[i] for i, job in enumerate(done)}

    killed = []

    def kill_one(processes):
        def later():
            # In the middle of its first batch, which takes longer than this.
            time.sleep(0.5)
            os.kill(processes[0], signal.SIGKILL)
            killed.append(processes[0])

        threading.Thread(target=later).start()

    batches = [listed[first : first + 2] for first in range(0, 6, 2)]
    together = {}
    for outcomes in run_remote("emoji-64", batches, "zipar", options, 2, {}, kill_one):
        done, result = outcomes
        assert not isinstance(result, Exception), result
        together |= {job.number: result.tokens[i] for i, job in enumerate(done)}
    assert killed and set(together) == set(alone) == set(range(6))
    for number, tokens in alone.items():
        assert torch.equal(tokens, together[number])


def test_workers_without_ray_are_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(jobs.ParameterError, match=r"workers = 2: .*pjd\[ray\]"):
        list(run("emoji-64", [], "zipar", {}, workers=2))
