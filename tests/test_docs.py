"""The documentation is true: its code runs, its numbers are the measured ones, its texts exist."""

import importlib
import inspect
import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

import pjd
from pjd.decoder.grid import Grid, RowLayout
from pjd.decoder.mask import drafts_visible_from, visible
from pjd.decoder.methods import PRESETS, configure
from pjd.decoder.schedule import schedule
from pjd.measure.retrieval import LinearProbe
from pjd.models.memory import needs
from pjd.models.registry import available
from pjd.paths import ROOT, WEIGHTS
from pjd.pipeline import evaluate, runs
from pjd.pipeline.collect import collect
from pjd.pipeline.settings import Setting
from tests.tiny import tiny_model, tiny_stamp

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("custom_generate/*.md")])
SOURCES = sorted(
    path
    for folder in ("pjd", "tests", "benchmarks", "custom_generate", "notebooks")
    for path in ROOT.glob(f"{folder}/**/*")
    if path.suffix in (".py", ".ipynb") and not path.parent.name.startswith(".")
)
SETTINGS = sorted(
    [*ROOT.glob("*.yaml"), *ROOT.glob("*.toml"), *ROOT.glob("profiles/*"), ROOT / "Makefile"]
)


def text_of(path: Path) -> str:
    """What a file says: of a notebook the cells, of a page with plain minus signs."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    return text.replace("−", "-") if path.suffix == ".md" else text


def page(name: str) -> str:
    """The text of a page below the root."""
    return text_of(ROOT / name)


def examples(name: str, language: str = "python") -> list[str]:
    """Code blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", page(name), flags=re.DOTALL)


def table(name: str, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading of a page, row by row, its head included."""
    below = page(name).split(f" {heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", below, flags=re.MULTILINE).group().splitlines()
    cells = [re.split(r"(?<!\\)\|", line.strip("|")) for line in lines]
    return [[cell.strip() for cell in row] for row in (cells[0], *cells[2:])]


def names(file: Path) -> str:
    """A name for a test's case."""
    return str(file.relative_to(ROOT))


# --- the code that pages show ---


@pytest.mark.skipif(not available(), reason="no embedded model on disk: run `make data`")
def test_the_example_of_a_new_decoder_runs(capsys):
    (code,) = examples("docs/adding_a_decoder.md")
    assert len(code.splitlines()) < 40
    try:
        exec(code, {})
    finally:
        # What the example registers must not outlive it.
        PRESETS.pop("typical-rows", None)
    steps = re.findall(r"\[(\d+), (\d+)\]", capsys.readouterr().out)
    paper, typical = (sum(map(int, pair)) for pair in steps)
    assert typical < paper


@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_of_a_model_of_ones_own_run(capsys, number):
    exec(examples("docs/your_own_model.md")[number], {})
    steps, size = re.fullmatch(r"(\[.*\]) (\(.*\))\n", capsys.readouterr().out).groups()
    assert size == "(8, 8)"
    # Fewer than the 64 forward passes of AR, its row ends not counted.
    assert all(8 <= int(count) < 64 for count in steps.strip("[]").split(","))


# --- tables and pictures of what the code does ---


def test_every_column_that_a_run_writes_is_explained(tmp_path, monkeypatch):
    for module in (runs, evaluate):
        monkeypatch.setattr(module, "RUNS", tmp_path)
    monkeypatch.setattr(runs, "PROVENANCE", tmp_path / "provenance")
    monkeypatch.setattr(evaluate, "BASELINES", tmp_path / "baselines")
    model, prompts = tiny_model(), ["cat", "dog"]
    listed = pd.DataFrame({"prompt": prompts, "group": "file"})
    probe = tmp_path / "probe.safetensors"
    words = len(model.words)
    LinearProbe(torch.zeros(1280, words), torch.zeros(1280), torch.ones(words), model.words).save(
        probe
    )
    for method in ("ar", "pjd"):
        made = pjd.generate(model, prompts, method)
        runs.save(method, tiny_stamp(made, "tiny"), made, listed, model)
    evaluate.measure_baseline(Setting("tiny", "tiny", {}, None, listed), "ar", model, probe)
    for method in ("ar", "pjd"):
        evaluate.evaluate(method, model, 3, probe)
    options = [{"method": "ar"}, {"method": "pjd"}]
    planned = pd.DataFrame(
        {"group": "main", "setting": "tiny", "options": options}, index=["ar", "pjd"]
    )
    settings = {"tiny": {"model": "tiny", "images": 2, "ar": "ar"}}
    collect(tmp_path, planned, settings).to_parquet(tmp_path / "runs.parquet")
    words = re.findall(r"\w+", page("docs/runs.md"))
    for path in tmp_path.rglob("*.parquet"):
        assert set(pd.read_parquet(path).columns) <= set(words), path
    for path in tmp_path.glob("*/*/*.json"):
        assert set(json.loads(path.read_text())) <= set(words), path


def test_the_readmes_table_of_methods_is_the_presets():
    _, *rows = table("README.md", "Use")
    assert rows == [
        [f"`{name}`", preset.summary, f"`{preset.knob}`" if preset.knob else ""]
        for name, preset in PRESETS.items()
    ]


def test_the_method_pages_table_of_methods_is_the_presets():
    _, *rows = table("docs/method.md", "2. Methods and choices")
    assert [row[0] for row in rows] == [f"`{name}`" for name in PRESETS]
    for name, layout, window, _, seen, _, redraft, resample in rows:
        config = configure(name.strip("`"))
        assert layout.startswith("one row") == (config.layout == "raster"), name
        of_rows = configure(name.strip("`"), columns=17).window
        assert (of_rows if window == "2C" else int(window)) == of_rows, name
        assert (window == "2C") == (of_rows == 34), name
        assert resample.startswith("the top") == (config.resample == "top-row"), name
        if seen in ("its own row", "all rows above"):
            assert (seen == "all rows above") == (config.mask == "none"), name
        if redraft in ("fresh", "fresh samples of p", "coupled"):
            assert redraft.split()[0] == config.redraft, name


def boards(heading: str) -> dict[str, list[list[str]]]:
    """The drawings of a section of the method page, by the words above each: lines of parts."""
    below = page("docs/method.md").split(f"## {heading}\n", 1)[1]
    block = re.search(r"```text\n(.*?)```", below, flags=re.DOTALL).group(1)
    heads, *lines = (re.split(r"\s{2,}", line.strip()) for line in block.splitlines())
    width = len(lines[0]) // len(heads)
    return {
        head: [line[width * place : width * (place + 1)] for line in lines]
        for place, head in enumerate(heads)
    }


def counts(board: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens committed and drafts of each row of a board, int64 [1, rows] both."""
    assert all(re.fullmatch(r"#*d*\.*", line) and len(line) == 8 for line in board)
    return tuple(torch.tensor([[line.count(mark) for line in board]]) for mark in "#d")


def test_the_method_pages_wavefronts_are_what_the_schedule_says():
    drawn = boards("3. The wavefront")
    assert len(drawn) == 4
    for head, lines in drawn.items():
        config = configure("pjd", window=4, context=int(head.rsplit(" ", 1)[1]))
        committed, drafts = counts([line for (line,) in lines])
        rows = committed.shape[1]
        layout = RowLayout.of(Grid(rows, 8), config, vocabulary=10)
        padded = torch.nn.functional.pad(committed, (0, 1))
        band = schedule(padded, torch.zeros_like(padded), layout, rows, config)
        assert band.row.tolist() == [list(range(rows))], head
        assert band.n_drafts.tolist() == drafts.tolist(), head
        in_words = ("one", "two", "three", "four")[int(band.begun.sum()) - 1]
        assert head.split()[0] == in_words, head


def test_the_method_pages_masks_are_what_the_decoder_computes():
    wavefronts = {head.split(",")[0]: lines for head, lines in boards("3. The wavefront").items()}
    drawn = boards("5. The row-causal mask")
    assert len(drawn) == 5
    for head, lines in drawn.items():
        board = [left for left, _ in lines]
        assert [[line] for line in board] == wavefronts[head.split(",")[0]], head
        committed, drafts = counts(board)
        lowest = int((committed + drafts > 0).sum()) - 1
        row, column = torch.tensor([[lowest]]), committed[:, lowest : lowest + 1]
        mask = "none" if 'mask "none"' in head else "row-causal"
        active, no_flush = committed + drafts > 0, torch.zeros(1, 1, dtype=torch.bool)
        seen_from = drafts_visible_from(mask, row, column, committed, drafts, active, no_flush)
        seen = visible(row, column, committed, drafts, 8, 8, seen_from).view(-1, 8)
        assert ["".join(".x"[cell] for cell in line) for line in seen] == [
            right for _, right in lines
        ], head


# --- the numbers that pages give ---

EXPECTED = json.loads((ROOT / "expected.json").read_text())["runs"]
NUMBER = r"[-+]?\d+(?:\.\d+)?"


def value(run: str, measure: str) -> float:
    """What a run is expected to measure."""
    return EXPECTED[run][measure]["value"]


def ratio(run: str, other: str) -> float:
    """Steps of a run over those of another."""
    return value(run, "steps") / value(other, "steps")


def is_rounded(written: str, number: float) -> bool:
    """Whether ``written`` is ``number``, to the digits that it has."""
    digits = len(written.partition(".")[2])
    return float(written) == round(number, digits)


def check_cell(cell: str, run: str, measure: str) -> None:
    """A cell has the expected value and, if it has one, a 95 % interval of the expected width."""
    written, *interval = re.findall(NUMBER, cell)
    assert is_rounded(written, value(run, measure)), (cell, run, measure)
    if interval:
        low, high = map(float, interval)
        # A tolerance is three standard deviations of a difference of two runs.
        width = 2 * 1.96 * EXPECTED[run][measure]["tolerance"] / (3 * 2**0.5)
        unit = 10.0 ** -len(interval[0].partition(".")[2])
        assert low <= float(written) <= high, (cell, run)
        assert abs(high - low - width) <= 1.01 * unit, (cell, run)


MAIN = {
    "AR": "ar",
    "AR, other seeds (noise)": "ar-repeat",
    "SJD, W = 16": "sjd",
    "PJD, c = 16 (exact)": "pjd-16",
    "PJD, c = 8": "pjd-8",
    "PJD, c = 4": "pjd-4",
    "PJD, c = 2": "pjd-2",
}
"""Rows of README's table, and their runs."""


def test_the_readmes_numbers_are_the_expected_ones():
    _, *rows = table("README.md", "What to expect")
    assert [row[0] for row in rows] == list(MAIN)
    for label, steps, compression, gap in rows:
        run = MAIN[label]
        check_cell(steps, run, "steps")
        check_cell(gap, run, "gap")
        assert is_rounded(compression.strip("×"), ratio("ar", run)), label


LARGER = {
    "AR, other seeds (noise)": "ar-repeat",
    "SJD, W = 16": "sjd",
    "MC-SJD, W = 32 (exact)": "mc-sjd-32",
    "MC-SJD, W = 64 (exact)": "mc-sjd-64",
    "MC-SJD, W = 64, first drafts from above (exact)": "mc-sjd-64-above",
    "MC-SJD, W = 128, first drafts from above (exact)": "mc-sjd-128-above",
    "the same, with a lenient test": "mc-sjd-128-above-lenient",
    "PJD, c = 8": "pjd-8",
    "PJD, c = 4": "pjd-4",
    "PJD-staircase, c = 8": "pjd-staircase-8",
    "PJD-staircase, c = 4": "pjd-staircase-4",
    "PJD-plus, c = 8": "pjd-plus-8",
    "PJD-plus, c = 4": "pjd-plus-4",
    "ZipAR, c = 8": "zipar-8",
    "ZipAR, c = 4": "zipar-4",
}
"""Rows of README's table of 32x32 codes, and their runs, each after "emoji-128-"."""


def test_the_readmes_numbers_of_the_larger_grid_are_the_expected_ones():
    _, *rows = table("README.md", "On 32×32 an exact decoder is ahead")
    fed = pd.read_csv(ROOT / "docs/results/runs.csv").set_index("run").tokens_per_step
    assert [row[0] for row in rows] == list(LARGER)
    for label, steps, compression, fed_per_step, gap in rows:
        run = f"emoji-128-{LARGER[label]}"
        check_cell(steps, run, "steps")
        check_cell(gap, run, "gap")
        assert is_rounded(compression.strip("×"), ratio("emoji-128-ar", run)), label
        assert is_rounded(fed_per_step, fed[run]), label


def test_the_lenient_runs_are_those_that_were_measured():
    found = pd.read_csv(ROOT / "docs/results/runs.csv").set_index("run")
    cells = r" \| `(.+)` \| (.+) \| (.+) \| (.+)× \| (.+) \| (.+) \[(.+), (.+)\] \|"
    rows = re.findall(rf"^\| \d+×\d+{cells}$", page("docs/tried.md"), flags=re.MULTILINE)
    assert len(rows) == 3
    columns = ["images", "steps", "compression", "tokens_per_step", "gap", "gap_low", "gap_high"]
    for run, *written in rows:
        for text, number in zip(written, found.loc[run, columns], strict=True):
            assert is_rounded(text, number), (run, text)
    recorded = json.loads((ROOT / "benchmarks/results/excess.json").read_text())["cases"]
    by_run = {case["run"]: case["excess"] for case in recorded}
    told = re.search(
        r"the excess is (.+), AR's own (.+) \(`python"
        r".+ on 16×16 is (.+), that of PJD at c = 4 (.+\])",
        page("docs/tried.md"),
    )
    on_16 = ("mc-sjd-64-above-lenient", "pjd-4")
    runs = ("emoji-128-mc-sjd-128-above-lenient", "emoji-128-ar", *on_16)
    for text, run in zip(told.groups(), runs, strict=True):
        for one, number in zip(re.findall(NUMBER, text), by_run[run], strict=True):
            assert is_rounded(one, number), (run, text)


CONTROL = "shuffled"
FINDINGS = {
    "Without locality": (
        [("steps", 0), ("steps", 1), ("gap", 0), ("gap", 1), None, None],
        {
            "SJD": ("sjd", f"{CONTROL}-sjd"),
            "ZipAR": ("zipar-4", f"{CONTROL}-zipar-4"),
            "PJD-staircase": ("pjd-staircase-4", f"{CONTROL}-pjd-staircase-4"),
            "ZipAR, adaptive": ("zipar-adaptive-4", f"{CONTROL}-zipar-adaptive-4"),
            "PJD-plus": ("pjd-plus-4", f"{CONTROL}-pjd-plus-4"),
            "PJD": ("pjd-4", f"{CONTROL}-pjd-4"),
            "PJD, no mask": ("pjd-nomask-4", f"{CONTROL}-pjd-nomask-4"),
        },
    ),
    "A better model loses less": (
        [None, ("steps", 0), None, ("gap", 0)],
        {
            "emoji-64, SJD": ("sjd",),
            "emoji-64, PJD, c = 2": ("pjd-2",),
            "emoji-64, PJD, c = 4": ("pjd-4",),
            "emoji-64, PJD, c = 8": ("pjd-8",),
            "emoji-96, SJD": ("emoji-96-sjd",),
            "emoji-96, PJD, c = 4": ("emoji-96-pjd-4",),
        },
    ),
    "PJD-plus: fewer steps than PJD": (
        [("steps", 0), ("steps", 1), "ratio", ("gap", 0), ("gap", 1)],
        {
            "16×16, emoji-64": ("pjd-4", "pjd-plus-4"),
            "24×24, emoji-96": ("emoji-96-pjd-4", "emoji-96-pjd-plus-4"),
        },
    ),
    "One ingredient at a time": (
        [("steps", 0), "expected beforehand", "measured"],
        {
            "PJD as released": ("pjd-released-4",),
            "PJD": ("pjd-4",),
            "every row resamples": (None,),
            "coupled drafts": (None,),
            "drafts past the row above": (None,),
            "the token above as stand-in: PJD-plus": ("pjd-plus-4",),
            "PJD-plus with uniform first drafts, or W = 16": (None,),
        },
    ),
    "Stand-ins": (
        [("gap", 0), ("gap", 1), ("gap", 2)],
        {
            "ZipAR": ("zipar-4", None, None),
            "ZipAR, adaptive": ("zipar-adaptive-4", None, None),
            "PJD": ("pjd-4", None, None),
            "PJD-plus": (None, None, "pjd-plus-4"),
            "PJD-staircase": (None, None, "pjd-staircase-4"),
        },
    ),
}
"""Tables of docs/findings.md by heading: what each column has (None: numbers of an older model,
said at its head), and the runs of each row (None: a run that expected.json lacks, said in the
cell)."""


@pytest.mark.parametrize("heading", FINDINGS)
def test_the_findings_tables_have_the_expected_numbers(heading):
    columns, rows = FINDINGS[heading]
    (_, *heads), *lines = table("docs/findings.md", heading)
    assert [line[0] for line in lines] == list(rows)
    for (_, *cells), tested in zip(lines, rows.values(), strict=True):
        for head, column, cell in zip(heads, columns, cells, strict=True):
            if column is None:
                assert head.endswith("ᵇ"), head
            elif column == "ratio":
                assert is_rounded(cell, ratio(tested[1], tested[0])), cell
            elif isinstance(column, str):
                assert head == column
            elif tested[column[1]] is None:
                assert re.fullmatch(rf"{NUMBER} ˢ", cell), cell
            else:
                check_cell(cell, tested[column[1]], column[0])


PLUS, LARGE = "emoji-96-pjd-plus-4", "emoji-96-pjd-4"
QUARTER = (("", "pjd-4"), ("emoji-96-", "emoji-96-pjd-6"), ("emoji-128-", "emoji-128-pjd-8"))
"""PJD with c a quarter of the columns, each after what its AR is called with."""
CLAIMS = {
    "README.md": [
        ("needs N of SJD's steps here", [ratio("pjd-4", "sjd")]),
        (
            "PJD needs N steps and SJD N, a ratio of N; AR needs N× as many as PJD, "
            "whose gap is N.",
            [
                value(LARGE, "steps"),
                value("emoji-96-sjd", "steps"),
                ratio(LARGE, "emoji-96-sjd"),
                ratio("emoji-96-ar", LARGE),
                value(LARGE, "gap"),
            ],
        ),
        (
            "`pjd-plus` needs N (N×) at N.",
            [value(PLUS, "steps"), ratio("emoji-96-ar", PLUS), value(PLUS, "gap")],
        ),
        (
            "its default, it needs N steps; the paper's PJD with c a quarter of the columns "
            "needs N, at a loss",
            [value("emoji-128-mc-sjd-64", "steps"), value("emoji-128-pjd-8", "steps")],
        ),
        (
            '(`initial="sample-above"`) it needs N, and is as exact',
            [value("emoji-128-mc-sjd-64-above", "steps")],
        ),
        (
            "on 24×24: N steps with W = 48 and N with such drafts, where PJD with c a quarter of "
            "the columns needs N.",
            [
                value("emoji-96-mc-sjd-48", "steps"),
                value("emoji-96-mc-sjd-48-above", "steps"),
                value("emoji-96-pjd-6", "steps"),
            ],
        ),
    ],
    "docs/findings.md": [
        (
            "16×16 N, N, N; 24×24 N, N, N; 32×32 N, N, N. Gaps of PJD: N, N and N;",
            [
                *(value(run, "steps") for run in ("sjd", "mc-sjd-32", "pjd-4")),
                *(value(f"emoji-96-{run}", "steps") for run in ("sjd", "mc-sjd-48", "pjd-6")),
                *(value(f"emoji-128-{run}", "steps") for run in ("sjd", "mc-sjd-64", "pjd-8")),
                *(value(run, "gap") for _, run in QUARTER),
            ],
        ),
        (
            "16×16, c = 4, N and N; 32×32, c = 8, N and N; c = 4, N and N |",
            [
                value(f"{grid}{run}-{c}", "steps")
                for grid, c in (("", 4), ("emoji-128-", 8), ("emoji-128-", 4))
                for run in ("zipar", "pjd")
            ],
        ),
        (
            "16×16, c = 4: N steps at N with it, N at N without it; "
            "32×32, c = 8: N at N and N at N; c = 4: N at N and N at N |",
            [
                value(f"{grid}{run}-{c}", measure)
                for grid, c in (("", 4), ("emoji-128-", 8), ("emoji-128-", 4))
                for run in ("pjd", "pjd-nomask")
                for measure in ("steps", "gap")
            ],
        ),
        (
            "gaps at c = 2, 4, 8, 16 on 16×16: N, N, N, N; on 32×32: N, N, N, N |",
            [value(f"{grid}pjd-{c}", "gap") for grid in ("", "emoji-128-") for c in (2, 4, 8, 16)],
        ),
        (
            "16×16, 24×24, 32×32: N×, N×, N×; of SJD: N×, N×, N× |",
            [
                *(ratio(f"{ar}ar", run) for ar, run in QUARTER),
                *(ratio(f"{ar}ar", f"{ar}sjd") for ar, _ in QUARTER),
            ],
        ),
        (
            "MC-SJD's grows as well, from a higher start: N× on 16×16, N× on 24×24, N× on 32×32",
            [
                ratio("ar", "mc-sjd-32"),
                ratio("emoji-96-ar", "emoji-96-mc-sjd-48"),
                ratio("emoji-128-ar", "emoji-128-mc-sjd-64"),
            ],
        ),
        (
            "in a random order PJD needs N steps, SJD N |",
            [value(f"{CONTROL}-pjd-4", "steps"), value(f"{CONTROL}-sjd", "steps")],
        ),
        (
            "on) lies at N [-0.01, +0.04] on 16×16, N [-0.02, +0.03] on 24×24 and "
            "N [-0.03, +0.03] on 32×32.",
            [value(f"{grid}ar-repeat", "gap") for grid in ("", "emoji-96-", "emoji-128-")],
        ),
        ("They lose N nats per token", [-value(f"{CONTROL}-zipar-4", "gap")]),
        (
            "In order PJD needs N of SJD's steps, shuffled N of them",
            [ratio("pjd-4", "sjd"), ratio(f"{CONTROL}-pjd-4", f"{CONTROL}-sjd")],
        ),
        (
            "twice as much with it (N against N)",
            [value(f"{CONTROL}-pjd-4", "gap"), value(f"{CONTROL}-pjd-nomask-4", "gap")],
        ),
        (
            "with W = 32, MC-SJD needs N steps and SJD N, and both are exact",
            [value("mc-sjd-32", "steps"), value("sjd-32", "steps")],
        ),
        (
            "MC-SJD with W = 32 needs N steps and PJD at c = 4 needs N. "
            "On 24×24 it needs N with W = 48, and PJD at c = 6 N.",
            [
                value(run, "steps")
                for run in ("mc-sjd-32", "pjd-4", "emoji-96-mc-sjd-48", "emoji-96-pjd-6")
            ],
        ),
        (
            "without it PJD needs N steps at a gap of N;",
            [value("pjd-nomask-4", measure) for measure in ("steps", "gap")],
        ),
        (
            "its other defects N steps at N.",
            [value("pjd-released-4", measure) for measure in ("steps", "gap")],
        ),
    ],
}
"""Sentences of pages, N for each number, and what the numbers should be."""


@pytest.mark.parametrize(
    ("name", "sentence", "numbers"),
    [(name, *claim) for name, claims in CLAIMS.items() for claim in claims],
)
def test_sentences_have_the_expected_numbers(name, sentence, numbers):
    pattern = f"({NUMBER})".join(map(re.escape, re.split(r"\bN\b", sentence)))
    found = re.findall(pattern, page(name))
    assert len(found) == 1, sentence
    written = found[0] if len(numbers) > 1 else found
    for text, number in zip(written, numbers, strict=True):
        assert is_rounded(text, number), (text, number)


@pytest.mark.skipif(not available(), reason="no embedded model on disk: run `make data`")
def test_the_model_cards_numbers_are_those_of_the_weights():
    _, *rows = table("docs/model_card.md", "How they were trained")
    shipped = {row[0].split("**")[1]: row[1:] for row in rows if "**" in row[0]}
    assert set(shipped) == {"emoji-64", "emoji-64-shuffled", "emoji-96", "emoji-128"}
    for model, (images, *nats) in shipped.items():
        quality = json.loads((WEIGHTS / model / "quality.json").read_text())
        total, stage = 0, quality
        while stage is not None:
            total, stage = total + stage["images_seen"], stage["before"]
        assert images == f"{total:,}", model
        groups = ("train", "unseen-style", "unseen-name")
        assert nats == [f"{quality['nats'][group]:.3f}" for group in groups], model


def test_the_seconds_are_those_of_the_benchmarks():
    cases = json.loads((ROOT / "benchmarks/results/cpu.json").read_text())["cases"]
    seconds = {(case["method"], case["batch"]): case["seconds"] for case in cases}
    sentence = rf"takes AR ({NUMBER}) s, SJD ({NUMBER}) s and PJD ({NUMBER}) s; in a batch of "
    sentence += rf"eight AR is the fastest of the three: ({NUMBER}), ({NUMBER}) and ({NUMBER}) s, "
    sentence += rf"and PJD-plus takes ({NUMBER}) s"
    written = re.search(sentence, page("README.md")).groups()
    methods = ("ar", "sjd", "pjd")
    wanted = [seconds[method, batch] for batch in (1, 8) for method in methods]
    wanted.append(seconds["pjd-plus", 8])
    assert seconds["ar", 8] == min(seconds[method, 8] for method in methods)
    assert all(map(is_rounded, written, wanted))

    cases = json.loads((ROOT / "benchmarks/results/cpu_settings.json").read_text())["cases"]
    _, *rows = table("docs/performance.md", "Threads, arithmetic, compilation")
    columns = [("ar", 1), ("pjd", 1), ("ar", 8), ("pjd", 8)]
    found = {
        (
            f"{'compiled' if case['compiled'] else 'plain'}, {case['dtype']}, {case['threads']}",
            (case["method"], case["batch"]),
        ): case["seconds"]
        for case in cases
    }
    assert len(rows) * len(columns) == len(found)
    for label, *cells in rows:
        for column, cell in zip(columns, cells, strict=True):
            assert is_rounded(cell, found[label, column]), (label, column)


def test_the_operations_of_an_iteration_are_those_that_were_counted():
    recorded = json.loads((ROOT / "benchmarks/results/operations.json").read_text())["methods"]
    _, *rows = table("docs/performance.md", "On a GPU: one graph per iteration")
    told = {label: [int(cell) for cell in cells] for label, *cells in rows}
    columns = ("own", "own_compiled", "block", "block_compiled")
    counted = {name: [numbers[column] for column in columns] for name, numbers in recorded.items()}
    assert counted.pop("sjd") == counted["mc-sjd"]
    assert list(told.values()) == list(counted.values())


def test_the_images_that_a_batch_changes_are_those_that_were_counted():
    recorded = json.loads((ROOT / "benchmarks/results/batches.json").read_text())
    assert recorded["images"] == 32 and recorded["model"] == "emoji-64"
    _, *rows = table("docs/performance.md", "Batches and rounding")
    told = [int(cell) for _, *cells in rows for cell in cells]
    by_method = {}
    for case in recorded["cases"]:
        by_method.setdefault(case["method"], []).append(case["equal_images"])
    assert told == [count for counts in by_method.values() for count in counts]
    labels = [PRESETS[method].title for method in by_method]
    assert [row[0].partition(",")[0] for row in rows] == labels


@pytest.mark.parametrize("page_name", ["docs/performance.md", "docs/checkpoints_chameleon.md"])
def test_what_models_need_is_what_is_computed(page_name):
    official = page_name != "docs/performance.md"
    _, *rows = table(page_name, "Memory" if official else "What a model needs")
    assert rows
    for label, *cells in rows:
        name = f"lumina-mgpt-7b-{label.partition(',')[0]}" if official else label
        plain, rounded = needs(name), needs(name, "int8")
        wanted = [*plain, plain.total, rounded.total]
        assert all(map(is_rounded, (cell.removesuffix(" GiB") for cell in cells), wanted)), label


def test_what_image_decoders_need_and_16_bits_do_is_what_was_counted():
    found = json.loads((ROOT / "benchmarks/results/decoders.json").read_text())
    sizes = {f"{one['decoder']}, {one['pixels']} pixels": one for one in found["sizes"]}
    text = page("docs/performance.md").split("### Image decoders\n", 1)[1]
    _, *rows = table("docs/performance.md", "Image decoders")
    for label, before, *cells in rows:
        peaks = [sizes[label][dtype]["peak"] / 2**30 for dtype in ("float32", "bfloat16")]
        assert all(map(is_rounded, cells, peaks)) and float(before) > peaks[0], label
    pixels = {name.partition(", ")[0]: one for name, one in found["pixels"].items()}
    assert found["images"] == 32
    for name, cases in pixels.items():
        line = next(line for line in text.splitlines() if re.match(rf"\| {name}.*\w, .*%", line))
        for case, cells in zip(
            cases.values(), re.findall(r"\| ([^|]*, \d+) \| (\S+) %", line), strict=True
        ):
            mean, largest = cells[0].split(", ")
            assert is_rounded(mean, case["mean"]) and float(largest) == case["largest"], line
            assert is_rounded(cells[1], 100 * case["share"]), line


def test_what_8_bits_cost_is_what_was_measured():
    found = json.loads((ROOT / "benchmarks/results/quantized.json").read_text())
    cases = {case["case"]: case for case in found["cases"]}
    _, *rows = table("docs/performance.md", "Weights in 8 bits")
    assert f"AR, {found['images']} images" in page("docs/performance.md")
    assert [label for label, *_ in rows] == list(cases)
    for label, size, gap, excess, *shares in rows:
        case = cases[label]
        assert is_rounded(size, case["block_bytes"] / 1e6), label
        for cell, key in ((gap, "gap"), (excess, "excess")):
            if cell:
                written = re.findall(NUMBER, cell)
                assert all(map(is_rounded, written, case[key])) and len(written) == 3, label
        for cell, key in zip(shares, ("total_variation", "other_likeliest"), strict=True):
            assert (cell == "") == (key not in case), label
            assert not cell or is_rounded(cell.removesuffix(" %"), 100 * case[key]), label


def test_the_numbers_of_the_preview_are_those_of_its_benchmark():
    found = json.loads((ROOT / "benchmarks/results/preview.json").read_text())
    cases = {(one["model"], one["name"], one["initial"]): one for one in found["cases"]}
    name = "docs/checkpoints_glm_image.md"
    _, *rows = table(name, "Does the preview help the rows?")
    assert {row[0] for row in rows} == {case for _, case, _ in cases}
    drafted = [("without-preview", "random"), ("without-preview", "repeat-left")]
    drafted += [("with-preview", kind) for kind in ("random", "repeat-left", "preview")]
    for method, *cells in rows:
        known = [cases.get((model, method, initial)) for model, initial in drafted]
        for cell, case in zip(cells[:5], known, strict=True):
            assert (cell == "") == (case is None)
            assert case is None or is_rounded(cell, case["steps"]["mean"]), method
        wanted = [known[place][measure] for measure in ("gap", "excess") for place in (0, 2)]
        for cell, interval in zip(cells[5:], wanted, strict=True):
            bounds = [interval[bound] for bound in ("mean", "low", "high")]
            assert all(map(is_rounded, re.findall(NUMBER, cell), bounds)), method
    assert f"{found['images']} images" in page(name)


def test_the_steps_of_the_released_baselines_are_those_that_were_counted():
    counted = json.loads((ROOT / "benchmarks/results/released.json").read_text())
    cases = {(one["method"], one["context"], one["case"]): one for one in counted["cases"]}
    _, *rows = table("docs/method.md", "How many steps that makes")
    released = [case for (method, _, name), case in cases.items() if name != "ours"]
    released = [cases["pjd-released", c, "ours"] for c in (2, 4, 8)] + released
    # As in the page: ZipAR, Jacobi and the rest in the order in which they were counted.
    assert len(rows) == len(released)
    for (_, _, steps, ours), case in zip(rows, released, strict=True):
        method = case["method"].removesuffix("-released")
        assert is_rounded(steps, case["steps"]), case
        assert is_rounded(ours, cases[method, case["context"], "ours"]["steps"]), case
    errors = {case["case"]: case["standard_error"] for case in counted["cases"]}
    most = max(error for name, error in errors.items() if name != "drawn afresh")
    text = " ".join(page("docs/method.md").split())
    told = re.search(r"Standard errors are up to (\S+) steps, and (\S+) for Jacobi", text).groups()
    assert all(map(is_rounded, told, (most, errors["drawn afresh"])))


# --- what pages, code and notebooks point at ---

PATH = re.compile(
    r"(?<![\w./>-])(?:benchmarks|custom_generate|docs|notebooks|pjd|profiles|tests)/"
    r"[\w./-]*\w\.(?:gif|ipynb|json|md|png|py|svg|txt|yaml)\b"
)
SECTION = re.compile(r"method\.md\)?, sections? (\d+)(?: (?:to|and) (\d+))?")
UNSHIPPED = re.compile(r"\b(?:METHODS|HOUSE|DESIGN|PAPER|STYLE)(?:\.md)?,?(?: section)? \d")
DOTTED = re.compile(r"(?<![\w./-])pjd(?:\.[A-Za-z_]\w*)+")
QUOTED = re.compile(r"`~?(pjd(?:\.[A-Za-z_]\w*)+)`")


@pytest.mark.parametrize("path", [*PAGES, *SOURCES, *SETTINGS], ids=names)
def test_every_cited_file_is_there(path):
    missing = {cited for cited in PATH.findall(text_of(path)) if not (ROOT / cited).is_file()}
    assert not missing


def test_every_cited_section_of_the_method_page_is_there():
    method = page("docs/method.md")
    sections = set(re.findall(r"^## (\d+)\.", method, flags=re.MULTILINE))
    cited = {(number, "docs/method.md") for number in re.findall(r"\bsections? (\d+)", method)}
    for path in [*PAGES, *SOURCES, *SETTINGS]:
        # A citation may go on in the next line of a docstring or a comment.
        text = re.sub(r"\s*\n[ \t#]*", " ", text_of(path))
        cited |= {(n, names(path)) for found in SECTION.findall(text) for n in found if n}
    assert len(cited) > 10
    assert not {(number, name) for number, name in cited if number not in sections}


@pytest.mark.parametrize("path", [*PAGES, *SOURCES, *SETTINGS], ids=names)
def test_no_text_cites_a_page_that_does_not_ship(path):
    assert not UNSHIPPED.findall(text_of(path))


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    module, *rest = name.split(".")
    found = importlib.import_module(module)
    for number, part in enumerate(rest):
        if inspect.ismodule(found) and not hasattr(found, part):
            try:
                found = importlib.import_module(".".join([module, *rest[: number + 1]]))
                continue
            except ModuleNotFoundError:
                return False
        # An attribute without a value has only an annotation.
        if not hasattr(found, part):
            return part in getattr(found, "__annotations__", {}) and part == rest[-1]
        found = getattr(found, part)
    return True


@pytest.mark.parametrize("path", [*PAGES, *SOURCES], ids=names)
def test_every_name_of_the_package_is_there(path):
    if path.name == "CHANGELOG.md":
        pytest.skip("it has the names of before")
    # Code that runs needs no such test, but what its texts refer to does.
    pattern = DOTTED if path.suffix == ".md" else QUOTED
    assert not {name for name in pattern.findall(text_of(path)) if not exists(name)}


def without_code(text: str) -> str:
    """A page without code blocks and without what is between back-ticks."""
    return re.sub(r"`[^`\n]*`", "code", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def anchors(path: Path) -> set[str]:
    """What links to the headings of a page say, as GitHub makes it."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize(
    "path", [*PAGES, *(path for path in SOURCES if path.suffix == ".ipynb")], ids=names
)
def test_every_link_within_the_repository_leads_somewhere(path):
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(path)))
    for link in (link for link in links if not link.startswith(("https://", "http://"))):
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists() and file.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(file), link


def test_every_page_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\((docs/\w+\.md)", page("README.md")))
    assert linked == {names(path) for path in PAGES if path.parent.name == "docs"}
