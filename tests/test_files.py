"""The files of a model: what they are by their first bytes and sizes, and what tells them apart."""

import json
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from pjd.models import files
from pjd.models.files import check_file, fault, identity, shards

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12345\n"
NAMES = ["a.safetensors", "tokenizer.json", "a.pt", "spiece.model"]


def write(path, content: bytes):
    path.write_bytes(content)
    return path


def whole(path):
    """A good file of the kind that its name says."""
    if path.suffix == ".safetensors":
        save_file({"x": torch.arange(300.0), "y": torch.ones(2, 3)}, path, {"format": "pt"})
    elif path.suffix == ".pt":
        torch.save({"x": torch.arange(300.0)}, path)
    else:
        path.write_text(json.dumps({"words": list(range(50))}))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_whole_files_have_no_fault_and_others_are_named_with_what_to_do(tmp_path, name):
    path = whole(tmp_path / name)
    assert fault(path) is None
    for content, said in (
        (b"", "is empty: download it again"),
        (POINTER, "is a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>not found", "is a web page: download it again"),
    ):
        with pytest.raises(ValueError, match=said) as error:
            check_file(write(path, content))
        assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["a.safetensors", "tokenizer.json", "a.pt"])
@pytest.mark.parametrize("kept", [0.1, 0.6, 0.99])
def test_half_a_download_is_seen(tmp_path, name, kept):
    path = whole(tmp_path / name)
    content = path.read_bytes()
    write(path, content[: int(kept * len(content))])
    assert "is damaged: " in fault(path) and "download it again" in fault(path)


def test_sizes_that_do_not_agree_are_both_said(tmp_path):
    path = whole(tmp_path / "a.safetensors")
    size = path.stat().st_size
    for change in (b"more", b"x" * 1000):
        write(path, path.read_bytes()[:size] + change)
        assert f"it has {size + len(change)} bytes, and its header says {size}" in fault(path)


@pytest.mark.parametrize("content", ["[]", "3", '"a"', "{", "nul"])
def test_json_that_is_no_object_is_a_fault(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert "download it again" in fault(tmp_path / "config.json")


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {"x": 3}}'])
def test_an_index_must_say_which_file_has_which_tensor(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(ValueError, match=r"index\.json has no weight_map from tensors to files"):
        shards(tmp_path / "index.json")


def test_what_cannot_be_read_is_a_fault_too(tmp_path):
    assert fault(tmp_path) == "cannot be read: Is a directory"
    (tmp_path / "a.json").symlink_to(tmp_path / "nowhere")
    assert fault(tmp_path / "a.json") == "cannot be read: No such file or directory"


def test_the_identity_is_of_the_content(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "WHOLE", 1000)
    monkeypatch.setattr(files, "SAMPLE", 16)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        save_file({"x": torch.zeros(40_000)}, tmp_path / folder / "a.safetensors")
        (tmp_path / folder / "config.json").write_text("{}")

    def of(folder: str) -> str:
        return identity((tmp_path / folder).iterdir())

    assert of("one") == of("two")
    seen = {of("one")}
    # Other weights of the same shape; one part of them; another type; another name; another text.
    for number, change in enumerate(
        (
            lambda where: save_file({"x": torch.ones(40_000)}, where / "a.safetensors"),
            lambda where: save_file(
                {"x": torch.cat([torch.zeros(30_000), torch.ones(10_000)])}, where / "a.safetensors"
            ),
            lambda where: save_file({"x": torch.zeros(40_000).int()}, where / "a.safetensors"),
            lambda where: (where / "a.safetensors").rename(where / "b.safetensors"),
            lambda where: (where / "config.json").write_text("[]"),
        )
    ):
        change(tmp_path / "two")
        seen.add(of("two"))
        assert len(seen) == number + 2


def test_a_zip_without_its_directory_is_cut_off(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", json.dumps({}))
    assert fault(path) is None
    write(path, path.read_bytes()[:-10])
    assert "its end is missing" in fault(path)
