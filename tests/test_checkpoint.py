"""Reading checkpoints: tensors and nothing else, whatever a file holds."""

import pickle
import re
import warnings
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from pjd.cli import app
from pjd.models.checkpoint import read
from pjd.paths import ROOT


class Payload:
    """Writes a file when it is unpickled as usual."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.fixture(params=["zip", "pickle"])
def evil(request, tmp_path) -> tuple[Path, Path]:
    """A file as torch writes it today, or did, and what it would write if its code ran."""
    path, target = tmp_path / "evil.pt", tmp_path / "written"
    # Each is opened once by those who trust it: the payload is one.
    if request.param == "zip":
        torch.save({"model": {"a": torch.zeros(2), "b": Payload(target)}}, path)
        torch.load(path, weights_only=False)
    else:
        path.write_bytes(pickle.dumps(Payload(target), protocol=2))
        pickle.loads(path.read_bytes())
    assert target.exists()
    target.unlink()
    return path, target


def test_code_in_a_file_is_refused_on_one_line_and_does_not_run(evil):
    path, target = evil
    with pytest.raises(ValueError, match=r"evil\.pt is damaged, or holds more") as error:
        read(path)
    assert not target.exists()
    message = str(error.value)
    assert "\n" not in message and "weights_only" not in message and "GLOBAL" in message


def test_code_in_a_file_is_not_run_by_convert_either(evil):
    path, target = evil
    converted = path.with_suffix(".safetensors")
    done = CliRunner().invoke(app, ["convert", str(path), str(converted)])
    assert isinstance(done.exception, ValueError) and "more than tensors" in str(done.exception)
    assert not target.exists() and not converted.exists()


def test_nothing_trusts_what_it_reads():
    sources = [*(ROOT / "pjd").rglob("*.py"), *(ROOT / "custom_generate").rglob("*.py")]
    assert len(sources) > 40
    trusting = (
        r"trust_remote_code[\"']?\s*[=:]\s*True",
        r"weights_only[\"']?\s*[=:]\s*False",
        r"pickle\.loads?\b|Unpickler\(|allow_pickle[\"']?\s*[=:]\s*True",
        # Without the word it depends on the version of torch.
        r"torch\.load\((?![^()]*weights_only=True)",
    )
    for path in sources:
        for pattern in trusting:
            assert not re.search(pattern, path.read_text()), f"{path}: {pattern}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(1), "steps": 3, "more": {}}, r"tensors: steps \(int\), more \(dict\)$"),
        ({"model": {"a": "b"}, "c": torch.zeros(1)}, r"more than tensors: a \(str\)$"),
        ({7: torch.zeros(1)}, r"more than tensors: 7 \(Tensor\)$"),
        ([torch.zeros(1)], "holds a list, not tensors by name$"),
        (torch.zeros(1), "holds a Tensor, not tensors by name$"),
        ({"model": [1]}, "holds a list, not tensors by name$"),
    ],
)
def test_what_is_no_tensor_is_refused_by_name(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "content", [b"", b"abc", b"\x80\x02", b"PK\x03\x04", b"{}", b"\x80\x02h\x05.", b"\x80\x02J\x05"]
)
def test_what_is_no_checkpoint_is_refused_on_one_line(tmp_path, content):
    for name in ("a.pt", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} is (damaged|empty)") as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wrappers", "taken"),
    [
        (["state_dict"], "state_dict"),
        (["state_dict", "model"], "model"),
        (["state_dict", "module"], "module"),
        (["module", "state_dict", "model"], "model"),
    ],
)
def test_of_several_wrappers_the_official_order_decides_and_is_said(tmp_path, wrappers, taken):
    content = {key: {"a": torch.full((2,), float(n))} for n, key in enumerate(wrappers)}
    torch.save(content, tmp_path / "a.pt")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = read(tmp_path / "a.pt")
    assert torch.equal(found["a"], content[taken]["a"])
    said = [str(one.message) for one in told if "a.pt has" in str(one.message)]
    assert len(said) == (len(wrappers) > 1)
    assert all(one.endswith(f"{taken} is read") for one in said)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_what_training_put_before_the_names_of_tensors_is_taken_off(tmp_path, prefix, name):
    tensors = {f"{prefix}layers.0.w": torch.ones(2), f"{prefix}out": torch.zeros(1)}
    (torch.save if name.endswith(".pt") else save_file)(tensors, tmp_path / name)
    assert set(read(tmp_path / name)) == {"layers.0.w", "out"}
    assert set(read(tmp_path / name, prefix="layers.")) == {"layers.0.w"}


def test_names_within_are_freed_too_and_no_two_become_one(tmp_path):
    save_file({"layers.0._orig_mod.w": torch.ones(1)}, tmp_path / "a.safetensors")
    assert set(read(tmp_path / "a.safetensors")) == {"layers.0.w"}
    save_file({"module.w": torch.ones(1), "w": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"(module\.)?w and (module\.)?w would be the same tensor"):
        read(tmp_path / "a.safetensors")


def test_a_converted_file_is_for_anyone_to_read(tmp_path):
    torch.save({"model": {"a": torch.ones(2)}}, tmp_path / "a.pt")
    done = CliRunner().invoke(
        app, ["convert", str(tmp_path / "a.pt"), str(tmp_path / "a.safetensors")]
    )
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o644
    assert {path.name for path in tmp_path.iterdir()} == {"a.pt", "a.safetensors"}


def test_trainers_arguments_beside_the_tensors_do_no_harm(tmp_path):
    content = {"model": {"a": torch.ones(2)}, "steps": 3, "args": Namespace(cfg=1.0)}
    torch.save(content, tmp_path / "a.pt")
    assert list(read(tmp_path / "a.pt")) == ["a"]
