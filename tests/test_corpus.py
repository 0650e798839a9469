"""The corpus: what is held out stays held out, and icons are laid on backgrounds correctly."""

import hashlib
import io
import json
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pjd.emoji import corpus
from pjd.paths import DATA

STYLES = [source.style for source in corpus.SETS]
REAL = DATA / "icons.parquet"


def synthetic() -> pd.DataFrame:
    """Two-word names of ten colours and ten things in five styles, and one name of its own."""
    names = [f"colour{number} thing{other}" for number in range(10) for other in range(10)]
    rows = [(name, style) for name in names for style in STYLES]
    return pd.DataFrame([*rows, ("singular", "noto")], columns=["name", "style"])


@pytest.fixture(scope="module", params=["synthetic", "real"])
def table(request: pytest.FixtureRequest) -> pd.DataFrame:
    """A table with its split; the real one only where it has been pulled."""
    if request.param == "synthetic":
        rows = synthetic()
        return rows.assign(split=corpus.split(rows))
    if not REAL.exists():
        pytest.skip("no corpus here: run `dvc pull`")
    return corpus.load(REAL)


def test_every_group_is_there(table):
    assert set(table.split) == {"train", "unseen-style", "unseen-name"}
    assert not table.duplicated(["name", "style"]).any()


def test_unseen_names_are_held_out_in_every_style(table):
    unseen = set(table.name[table.split == "unseen-name"])
    assert set(table.split[table.name.isin(unseen)]) == {"unseen-name"}
    assert table[table.name.isin(unseen)].groupby("name").size().min() >= 2


def test_words_of_unseen_names_occur_in_three_training_names(table):
    training = set(table.name[table.split == "train"])
    counts = Counter(word for name in training for word in set(name.split()))
    for name in set(table.name[table.split == "unseen-name"]):
        assert min(counts[word] for word in name.split()) >= 3, name


def test_unseen_styles_are_of_names_trained_in_two_others(table):
    trained = table[table.split == "train"].groupby("name")["style"].agg(set).to_dict()
    held_out = table[table.split == "unseen-style"]
    for name, style in zip(held_out["name"], held_out["style"], strict=True):
        assert len(trained[name] - {style}) >= 2, (name, style)


def test_the_two_fluent_sets_are_held_out_together(table):
    fluent = table[table["style"].isin(["fluent", "fluent 3d"])]
    assert fluent.groupby("name")["split"].nunique().max() == 1


def test_split_is_of_names_not_of_row_order(table):
    expected = dict(zip(zip(table["name"], table["style"], strict=True), table.split, strict=True))
    shuffled = table.sample(frac=1, random_state=0)
    pairs = zip(shuffled["name"], shuffled["style"], strict=True)
    assert dict(zip(pairs, corpus.split(shuffled), strict=True)) == expected


def test_prompts_are_fixed_distinct_and_of_known_parts(table):
    listed = corpus.prompts(table, count=300)
    again = corpus.prompts(table.sample(frac=1, random_state=0), count=300)
    assert listed == again
    for group, captions in listed.items():
        pairs = table[table.split == group]
        known = set(zip(pairs["name"], pairs["style"], strict=True))
        assert len(captions) == 300
        assert len(set(captions)) == min(300, len(known) * len(corpus.BACKGROUNDS))
        for text in captions:
            name, style, ground = text.split(", ")
            assert (name, style) in known
            assert ground.removeprefix("on ") in corpus.BACKGROUNDS


def test_every_word_of_a_prompt_is_in_the_vocabulary(table):
    words = set(corpus.vocabulary(table))
    for captions in corpus.prompts(table, count=300).values():
        for text in captions:
            assert set(text.replace(",", "").split()) <= words, text


@pytest.mark.skipif(not (DATA / "prompts.json").exists(), reason="no corpus here: `dvc pull`")
def test_the_stored_prompts_are_those_of_the_corpus():
    listed = json.loads((DATA / "prompts.json").read_text(encoding="utf-8"))
    assert listed == corpus.prompts(corpus.load(REAL))


def test_real_icons_decode_and_are_not_blank():
    if not REAL.exists():
        pytest.skip("no corpus here: run `dvc pull`")
    table = corpus.load(REAL)
    assert set(table["style"]) == set(STYLES)
    for image in table.image.iloc[:: len(table) // 50]:
        rgba = corpus.decode(image)
        assert rgba.shape == (corpus.SIZE, corpus.SIZE, 4)
        assert (rgba[..., 3] > 127).mean() >= 0.01


def test_composite_blends_by_alpha():
    ground = np.full((1, 3, 3), 200, np.uint8)
    rgba = np.array([[[10, 20, 30, 0], [10, 20, 30, 255], [100, 0, 0, 51]]], np.uint8)
    expected = [[[200, 200, 200], [10, 20, 30], [180, 160, 160]]]
    assert corpus.composite(rgba, ground).tolist() == expected


@pytest.mark.parametrize("size", [64, 96])
def test_resize_keeps_the_colour_of_clear_pixels_out_of_edges(size):
    # A red disc whose clear surroundings are green: no green may show after resizing.
    rgba = np.zeros((128, 128, 4), np.uint8)
    rgba[..., 1] = 255
    down, right = np.mgrid[:128, :128] - 63.5
    rgba[np.hypot(down, right) < 40] = [255, 0, 0, 255]
    small = corpus.resize(rgba, size)
    assert small.shape == (size, size, 4)
    seen = small[..., 3] > 0
    assert small[seen][:, 1].max() == 0
    assert small[seen][:, 0].min() >= 250
    # Antialiased: some pixels of the edge are partly clear, and the covered area is kept.
    assert ((small[..., 3] > 20) & (small[..., 3] < 235)).any()
    assert small[..., 3].mean() == pytest.approx(rgba[..., 3].mean(), rel=0.01)


def test_backgrounds_go_from_top_to_bottom():
    assert len(corpus.BACKGROUNDS) == 12
    for name, (top, bottom) in corpus.BACKGROUNDS.items():
        ground = corpus.background(name, 64)
        assert ground.shape == (64, 64, 3)
        assert ground.dtype == np.uint8
        assert tuple(ground[0, 0]) == top
        assert tuple(ground[-1, -1]) == bottom
        # Smooth, or the tokenizer would have edges to code that no caption mentions.
        assert np.abs(np.diff(ground.astype(int), axis=0)).max() <= 2


def svg(body: str) -> tuple[str, str, bytes]:
    text = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8">{body}</svg>'
    return "square", "noto", text.encode()


def test_an_icon_is_drawn_the_same_each_time_and_a_blank_one_is_dropped():
    icon = svg('<path fill="#2050c0" d="M2 2h4v4H2z"/>')
    first, second = corpus._rasterise(icon), corpus._rasterise(icon)
    assert first == second
    name, style, image, covered = first
    assert (name, style, covered) == ("square", "noto", 0.25)
    rgba = corpus.decode(image)
    assert rgba[..., 3].mean() == pytest.approx(255 / 4)
    assert np.abs(rgba[64, 64, :3].astype(int) - [0x20, 0x50, 0xC0]).max() <= 8
    assert corpus._rasterise(svg("")) is None


@pytest.mark.parametrize("length", [0, 10, 400])
def test_a_damaged_corpus_is_one_clear_line(tmp_path, length):
    path = tmp_path / "icons.parquet"
    buffer = io.BytesIO()
    pd.DataFrame({"name": ["cat"] * 99}).to_parquet(buffer)
    path.write_bytes(buffer.getvalue()[:length])
    with pytest.raises(
        ValueError, match=r"icons.parquet is damaged .*: delete it and run"
    ) as error:
        corpus.load(path)
    assert "\n" not in str(error.value)


def test_a_missing_corpus_says_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `dvc pull`"):
        corpus.load(tmp_path / "none.parquet")


def test_download_refuses_another_archive(tmp_path, monkeypatch):
    source = corpus.SETS[0]
    monkeypatch.setattr(corpus, "SETS", (source,))
    (tmp_path / source.archive).write_bytes(b"not the package")
    digest = hashlib.sha256(b"not the package").hexdigest()
    with pytest.raises(RuntimeError, match=f"has sha256 {digest}, expected {source.sha256}"):
        corpus.download(tmp_path)


def test_download_tells_why_npm_failed(tmp_path, monkeypatch):
    def fail(command: list[str], cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        assert command[-1] == f"{corpus.SETS[0].package}@{corpus.SETS[0].version}"
        return subprocess.CompletedProcess(command, 1, "", "no network")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(RuntimeError, match="no network"):
        corpus.download(tmp_path)
    assert not list(tmp_path.iterdir())
