"""`pjd export` writes a run's pictures with their prompts and seeds, and goes on where it was."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import save_file

import pjd
from pjd import cli
from pjd.decoder.methods import configure
from pjd.errors import ParameterError
from pjd.models import registry
from pjd.pipeline import audit, export, runs
from pjd.pipeline.files import read_run
from tests.tiny import runs_of_tiny_models, tiny_model, tiny_stamp

PROMPTS = ["cat", "red dog", "dog\nred"]


@pytest.fixture
def result(tmp_path, monkeypatch):
    """A run `tiny` of three images, decoded by a tiny model, with seeds from 7."""
    runs_of_tiny_models(tmp_path, monkeypatch)
    monkeypatch.setattr(export, "load", lambda *_: tiny_model())
    return decode("tiny", 7)


def decode(
    name: str, seed: int, more: dict | None = None, weights: str | None = "0123"
) -> pjd.Result:
    model = tiny_model()
    made = pjd.generate(model, PROMPTS, "pjd", seed=seed)
    table = pd.DataFrame({"prompt": PROMPTS, "group": ["a", "a", "b"], **(more or {})})
    runs.save(name, tiny_stamp(made, weights=weights), made, table, model)
    return made


def test_a_run_is_read_as_it_was_written(result):
    run = read_run(runs.run_folder("tiny"))
    assert (run.setting, run.model, run.weights, run.dtype) == (None, "tiny", "0123", "float32")
    assert run.config == result.config.as_dict()
    assert run.images.prompt.tolist() == PROMPTS
    assert runs.column_tensor(run.images.tokens).equal(result.tokens)
    with pytest.raises(FileNotFoundError, match=r"no run .*absent/decode: .*decode@absent"):
        read_run(runs.run_folder("absent"))
    # Before the table is asked for, and so before a model is loaded.
    (runs.run_folder("tiny") / "decode" / "images.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"images\.parquet is damaged \(.*: delete it"):
        read_run(runs.run_folder("tiny"))


def test_other_weights_than_the_runs_are_refused_before_they_are_loaded(
    result, tmp_path, monkeypatch
):
    def refuse(*_):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(runs, "weights_of", lambda name: "4567")
    for module in (export, audit):
        monkeypatch.setattr(module, "load", refuse)
    made = pjd.generate(tiny_model(), PROMPTS, "jacobi")
    table = pd.DataFrame({"prompt": PROMPTS, "group": "a"})
    runs.save("noise", tiny_stamp(made), made, table, tiny_model())
    for use in (export.plan, audit.audit_run):
        with pytest.raises(ParameterError, match=r"run = 'noise': .*weights 0123 of tiny.*4567"):
            use("noise")
    # An older run does not know its weights.
    decode("old", 7, weights=None)
    assert read_run(runs.run_folder("old")).weights is None
    assert len(export.plan("old").records) == 3


def test_a_model_elsewhere_is_found_again_by_its_path(tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    for where in (weights / "mine", tmp_path / "copy" / "mine"):
        where.mkdir(parents=True)
        (where / "model.json").write_text(f'{{"sampling": {{}}, "at": "{where.parent.name}"}}')
        save_file({}, where / "model.safetensors")
    monkeypatch.setattr(runs, "WEIGHTS", weights)
    monkeypatch.setattr(registry, "WEIGHTS", weights)
    monkeypatch.chdir(tmp_path)
    config = configure("ar")
    here, path = runs.stamp_of(None, "mine", None, config), str(tmp_path / "copy" / "mine")
    assert runs.stamp_of(None, "weights/mine", None, config) == here
    assert (here["model"], here["dtype"]) == ("mine", "float32")
    copy = runs.stamp_of(None, "copy/mine", None, config)
    assert copy["model"] == path and registry.resolve(path) == tmp_path / "copy" / "mine"
    assert copy["weights"] == registry.weights_of(path) != here["weights"]


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_pictures_prompts_and_seeds_are_those_of_the_run(result, tmp_path):
    out = tmp_path / "out"
    assert export.write(export.plan("tiny"), out, batch_size=2) == 3
    listed = lines(out / "metadata.jsonl")
    names = [f"images/0000{index}.png" for index in range(3)]
    assert [one["file_name"] for one in listed] == names
    assert [one["prompt"] for one in listed] == PROMPTS
    assert [one["group"] for one in listed] == ["a", "a", "b"]
    assert [(one["run"], one["index"], one["seed"]) for one in listed] == [
        ("tiny", 0, 7),
        ("tiny", 1, 8),
        ("tiny", 2, 9),
    ]
    # The seed says how to draw the picture again, alone.
    again = pjd.generate(tiny_model(), [PROMPTS[1]], "pjd", seed=8)
    assert np.array_equal(np.asarray(again.images[0]), pixels(out / names[1]))
    for name, image in zip(names, result.images, strict=True):
        assert np.array_equal(pixels(out / name), np.asarray(image))
    # One prompt is one line.
    assert (out / "prompts.txt").read_text() == "cat\nred dog\ndog red\n"
    assert {path.name for path in out.iterdir()} == {"images", "metadata.jsonl", "prompts.txt"}
    assert len({one["digest"] for one in listed}) == 3 and "image_id" not in listed[0]


def test_a_caption_of_coco_has_the_id_of_its_picture(result, tmp_path):
    decode("coco", 0, {"image_id": [139, 285, 632]})
    assert [one["image_id"] for one in export.plan("coco").records] == [139, 285, 632]


def test_the_layout_of_geneval_has_a_folder_per_image(result, tmp_path):
    out = tmp_path / "out"
    export.write(export.plan("tiny", "geneval"), out)
    listed = lines(out / "metadata.jsonl")
    for index, image in enumerate(result.images):
        folder = out / f"0000{index}"
        assert np.array_equal(pixels(folder / "samples" / "0000.png"), np.asarray(image))
        assert lines(folder / "metadata.jsonl") == [listed[index]]
        assert listed[index]["file_name"] == f"0000{index}/samples/0000.png"


def test_a_killed_export_goes_on(result, tmp_path, monkeypatch):
    out, planned, made = tmp_path / "out", export.plan("tiny"), export.pictures

    def killed(model, tokens, batch_size):
        if (out / "images" / "00000.png").exists():
            raise KeyboardInterrupt
        return made(model, tokens, batch_size)

    monkeypatch.setattr(export, "pictures", killed)
    with pytest.raises(KeyboardInterrupt):
        export.write(planned, out, batch_size=1)
    assert [path.name for path in (out / "images").iterdir()] == ["00000.png"]
    monkeypatch.setattr(export, "pictures", made)
    assert export.write(planned, out, batch_size=1) == 2
    first, second, third = (out / "images" / f"0000{index}.png" for index in range(3))
    whole, stamp = second.read_bytes(), first.stat().st_mtime_ns
    second.write_bytes(whole[: len(whole) // 2])
    third.unlink()
    assert export.write(planned, out) == 2
    assert second.read_bytes() == whole and third.exists() and first.stat().st_mtime_ns == stamp


def test_a_picture_appears_whole_or_not_at_all(result, tmp_path, monkeypatch):
    def full(self, path, *_):
        path.write_bytes(b"half a picture")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space left"):
        export.write(export.plan("tiny"), tmp_path / "out")
    assert list((tmp_path / "out" / "images").iterdir()) == []


def test_what_is_whole_needs_no_model(result, tmp_path, monkeypatch):
    export.write(export.plan("tiny"), tmp_path / "out")
    monkeypatch.setattr(export, "load", refuse_to_load)
    assert export.write(export.plan("tiny"), tmp_path / "out") == 0


def refuse_to_load(*_):
    raise AssertionError("a model is loaded")


def test_pictures_of_something_else_are_not_mixed(result, tmp_path, monkeypatch):
    out, other = tmp_path / "out", tmp_path / "other"
    export.write(export.plan("tiny"), out)
    monkeypatch.setattr(export, "load", refuse_to_load)
    with pytest.raises(ParameterError, match=r"out'?: its metadata\.jsonl is that of other"):
        export.write(export.plan("tiny", "geneval"), out)
    decode("second", 7)
    with pytest.raises(ParameterError, match="that of other pictures"):
        export.write(export.plan("second"), out)
    # Equal codes are equal pictures, of the same weights.
    planned = export.plan("tiny")
    decode("tiny", 7)
    assert export.write(export.plan("tiny"), out) == 0
    monkeypatch.setattr(runs, "weights_of", lambda name: "4567")
    decode("tiny", 7, weights="4567")
    with pytest.raises(ParameterError, match="decoded anew"):
        export.write(export.plan("tiny"), out)
    other.mkdir()
    (other / "thesis.tex").touch()
    with pytest.raises(ParameterError, match=r"must be a new or an empty folder.*no metadata"):
        export.write(planned, other)
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["../tiny"], "run = '../tiny': must be a folder below runs/"),
        (["absent"], "dvc repro decode@absent"),
        (["tiny", "--layout", "coco"], "layout = 'coco': must be one of flat, geneval"),
        (["tiny", "--batch-size", "0"], "batch_size = 0: must be an integer at least 1"),
        (["tiny", "--device", "tpu"], "device = 'tpu'"),
    ],
)
def test_what_is_not_allowed_is_said_before_a_model_is_loaded(
    result, tmp_path, monkeypatch, capsys, words, told
):
    monkeypatch.setattr(export, "load", refuse_to_load)
    monkeypatch.setattr(sys, "argv", ["pjd", "export", *words, "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2 and told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_made(result, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["pjd", "export", "tiny", "-o", str(out)])
    for made in (3, 0):
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 0
        assert f"3 pictures, {made} of them made now" in capsys.readouterr().out


def test_a_finished_run_is_replaced_by_the_same_alone(result):
    table, stamp = pd.DataFrame({"prompt": PROMPTS}), tiny_stamp(result)
    evaluated = runs.run_folder("tiny") / "evaluate"
    evaluated.mkdir()
    runs.check_same("new", stamp, table)
    runs.check_same("tiny", stamp, table)
    other = {**stamp["config"], "seed": 8}
    for now, prompts, said in (
        ({"config": other}, PROMPTS, r"something else \(seed 7, not 8\): give another name"),
        ({"model": "copy", "weights": "4567"}, PROMPTS, "model tiny, not copy; weights 0123, not"),
        ({"setting": "emoji-64"}, PROMPTS, "setting None, not emoji-64"),
        ({}, PROMPTS[:2], r"\(images 3, not 2\)"),
        ({}, PROMPTS[::-1], r"\(other prompts\)"),
    ):
        with pytest.raises(ParameterError, match=said):
            runs.check_same("tiny", stamp | now, pd.DataFrame({"prompt": prompts}))
    assert evaluated.exists()
    # What was measured on the codes before is out of date.
    decode("tiny", 7)
    assert not evaluated.exists() and read_run(evaluated.parent).images.prompt.tolist() == PROMPTS
    # An older run does not know its weights; one that lacks a file is not finished.
    decode("old", 7, weights=None)
    runs.check_same("old", stamp, table)
    (runs.run_folder("tiny") / "decode" / "images.parquet").unlink()
    runs.check_same("tiny", stamp | {"model": "copy"}, table)
