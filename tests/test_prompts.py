import json
import os
import subprocess
import sys

import pytest

from pjd.errors import ParameterError
from pjd.paths import DATA, ROOT
from pjd.pipeline.prompts import read


@pytest.fixture
def coco(tmp_path):
    path = tmp_path / "captions_val2017.json"
    captions = [(7, 30, "Second of seven."), (7, 20, " First of\nseven. "), (3, 90, "Of three.")]
    listed = [{"image_id": i, "id": n, "caption": text} for i, n, text in captions]
    path.write_text(json.dumps({"info": {}, "images": [], "annotations": listed}))
    return path


def test_coco_gives_the_first_caption_of_each_image_in_order(coco):
    table = read(str(coco))
    assert table.prompt.tolist() == ["Of three.", "First of seven."]
    assert table.image_id.tolist() == [3, 7]
    assert read(str(coco), 1).prompt.tolist() == ["Of three."]


def test_parti_keeps_quotes_and_groups_by_category(tmp_path):
    path = tmp_path / "PartiPrompts.tsv"
    rows = [
        "Prompt\tCategory\tChallenge\tNote",
        'a "stop" sign\tArts\tBasic\t',
        "bond\tAbstract\tBasic\tx",
    ]
    path.write_text("\n".join(rows) + "\n")
    table = read(str(path))
    assert table.prompt.tolist() == ['a "stop" sign', "bond"]
    assert table.group.tolist() == ["Arts", "Abstract"]


def test_parti_takes_numbers_and_words_for_nothing_as_prompts(tmp_path):
    path = tmp_path / "PartiPrompts.tsv"
    path.write_text("Prompt\tCategory\n1984\tAbstract\nNone\tNA\n0042\t7\n")
    table = read(str(path))
    assert table.prompt.tolist() == ["1984", "None", "0042"]
    assert table.group.tolist() == ["Abstract", "NA", "7"]


@pytest.mark.parametrize("end", ["\t", "\t\t\t", "\tBasic\t\t"])
def test_parti_takes_the_prompt_column_where_rows_end_with_a_tab(tmp_path, end):
    path = tmp_path / "PartiPrompts.tsv"
    path.write_text(f"Prompt\tCategory\tChallenge\n\na cat\tArts{end}\nfox\tFood{end}\n")
    table = read(str(path))
    assert table.prompt.tolist() == ["a cat", "fox"]
    assert table.group.tolist() == ["Arts", "Food"]


def test_text_gives_one_prompt_a_line(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("قطة 🐈\n\n  a dog \n", encoding="utf-8")
    assert read(str(path)).prompt.tolist() == ["قطة 🐈", "a dog"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{}", "annotations"),
        ("a.json", "not json", "format coco"),
        ("a.json", '{"annotations": [{"id": 1}]}', "image_id"),
        ("a.tsv", "Text\tCategory\nx\ty\n", "Prompt"),
        ("a.csv", "x", "whose name ends in"),
    ],
)
def test_a_file_in_another_format_is_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ParameterError, match=message) as raised:
        read(str(tmp_path / name))
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(not (DATA / "prompts.json").exists(), reason="no corpus here: `dvc pull`")
def test_the_corpus_prompts_are_all_read_however_their_path_is_written(tmp_path, monkeypatch):
    listed = json.loads((DATA / "prompts.json").read_text(encoding="utf-8"))
    monkeypatch.chdir(ROOT / "docs")
    (tmp_path / "link.json").symlink_to(DATA / "prompts.json")
    for written in ("../docs/../data/emoji/prompts.json", str(tmp_path / "link.json"), "emoji"):
        table = read(written)
        assert sorted(table.prompt) == sorted(
            prompt for group in listed.values() for prompt in group
        )
        assert table.groupby("group").size().to_dict() == {g: len(p) for g, p in listed.items()}
        assert read(written, 8).equals(read("emoji", 8))


def test_no_prompts_are_not_counted_where_no_number_is_given():
    with pytest.raises(ParameterError, match="prompts = 'none': holds no prompt"):
        read("none")


def test_too_few_prompts_or_none(tmp_path, coco):
    with pytest.raises(ParameterError, match=r"images = 3: .* only 2 prompts"):
        read(str(coco), 3)
    with pytest.raises(FileNotFoundError, match="no file"):
        read(str(tmp_path / "absent.txt"))
    with pytest.raises(ParameterError, match="images = 100000"):
        read("emoji", 100_000)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xef\xbb\xbfcat\r\ndog\r\n", ["cat", "dog"]),
        (b"\xef\xbb\xbf\n fox", ["fox"]),
        (b"cat\rred dog\r\rfox", ["cat", "red dog", "fox"]),
        ("cat\u2028face\ndog".encode(), ["cat\u2028face", "dog"]),
        (
            "fox\x85face\r\nowl\x0cface\nhen\x1cface".encode(),
            ["fox\x85face", "owl\x0cface", "hen\x1cface"],
        ),
        ("a\u2029b\x0bc".encode(), ["a\u2029b\x0bc"]),
        ("قطة\rcafé".encode(), ["قطة", "café"]),
    ],
)
def test_a_text_file_has_a_prompt_on_each_line_however_it_was_saved(tmp_path, content, expected):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    assert read(str(path)).prompt.tolist() == expected


def test_other_files_may_have_a_byte_order_mark_and_other_line_ends_too(tmp_path):
    mark = b"\xef\xbb\xbf"
    (tmp_path / "a.tsv").write_bytes(mark + "Prompt\tCategory\rcaf\xe9\u2028x\tArts\r".encode())
    assert read(str(tmp_path / "a.tsv")).prompt.tolist() == ["café\u2028x"]
    captions = {"annotations": [{"image_id": 1, "id": 2, "caption": "café"}]}
    content = json.dumps(captions, ensure_ascii=False).encode()
    (tmp_path / "a.json").write_bytes(mark + content)
    assert read(str(tmp_path / "a.json")).prompt.tolist() == ["café"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"cat\ncaf\xe9\n", r"line 2 is not UTF-8 \(byte 0xe9\): save it as UTF-8"),
        ("a.txt", b"one\r\ntwo\rthree\n\xff", r"line 4 is not UTF-8 \(byte 0xff\)"),
        ("a.tsv", b"Prompt\tCategory\n\xa9\tx\n", "line 2 is not UTF-8"),
        ("a.json", b'{"annotations": ["\xe9"]}', "line 1 is not UTF-8"),
        ("a.txt", "cat\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("a.tsv", b"\xfe\xff\0P", "is UTF-16: save it as UTF-8"),
        ("a.json", "{}".encode("utf-32"), "is UTF-32: save it as UTF-8"),
        ("a.txt", "cat\n".encode("utf-16-le"), "has zero bytes, as UTF-16"),
        ("a.txt", b"", "holds no prompt"),
        ("a.txt", b"\xef\xbb\xbf \r\n\r\n", "holds no prompt"),
        ("a.tsv", b"", "is not in the format parti"),
        ("a.tsv", b"Prompt\tCategory\n", "holds no prompt"),
        ("a.tsv", b"Prompt\tCategory\ncat\tx\n \ty\n", "prompt 2 = ' ': must be a text"),
        ("a.tsv", b"Category\tPrompt\nx\ty\nz\n", "prompt 2 = .*: must be a text"),
        ("a.tsv", b"Prompt\tCategory\n\nx\ty\n0\tz\tw\n", "line 4 has a cell beyond the 2 columns"),
        ("a.json", b"", "is not in the format coco"),
        ("a.json", b'{"annotations": []}', "holds no prompt"),
        ("a.json", b'{"annotations": null}', "is not in the format coco"),
        ("a.json", b"[" * 100_000, "is not in the format coco"),
    ],
)
def test_a_file_that_cannot_be_read_says_where_and_what_to_do(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ParameterError, match=message) as raised:
        read(str(tmp_path / name))
    assert name in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("caption", None, "caption of image_id 7 = None: must be a text"),
        ("caption", 5, "caption of image_id 7 = 5: must be a text"),
        ("caption", " \n", "caption of image_id 7 = "),
        ("image_id", "7", "image_id = '7': must be an integer"),
        ("image_id", None, "image_id = None: must be an integer"),
        ("id", 1.5, "id of a caption of image_id 7 = 1.5: must be an integer"),
    ],
)
def test_a_caption_that_is_none_is_named(tmp_path, field, value, message):
    good = {"image_id": 7, "id": 30, "caption": "A cat."}
    listed = [good, {**good, "id": 20, field: value}]
    (tmp_path / "a.json").write_text(json.dumps({"annotations": listed}))
    with pytest.raises(ParameterError, match=message):
        read(str(tmp_path / "a.json"))


@pytest.mark.parametrize("count", [-1, 0, 2.0, "3", True])
@pytest.mark.parametrize("source", ["emoji", "mine.txt"])
def test_the_number_of_prompts_is_an_integer_from_1(tmp_path, monkeypatch, source, count):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("cat\ndog\nfox\n")
    with pytest.raises(ParameterError, match=f"images = {count!r}: must be an integer at least 1"):
        read(source, count)


@pytest.mark.parametrize("source", [None, 5, "", ["mine.txt"]])
def test_the_source_of_prompts_is_a_text(source):
    with pytest.raises(ParameterError, match=r"prompts = .*: must be a text"):
        read(source, 3)


def test_files_are_utf_8_in_any_locale(tmp_path):
    (tmp_path / "a.txt").write_text("café\n", encoding="utf-8")
    (tmp_path / "a.tsv").write_text("Prompt\tCategory\ncafé\tx\n", encoding="utf-8")
    captions = '{"annotations": [{"image_id": 1, "id": 2, "caption": "café"}]}'
    (tmp_path / "a.json").write_text(captions, encoding="utf-8")
    script = """
import locale
from pjd.pipeline.params import parameters
from pjd.pipeline.prompts import read
assert "utf" not in locale.getpreferredencoding().lower()
assert [read(f"a.{end}").prompt[0] for end in ("txt", "tsv", "json")] == ["caf\\xe9"] * 3
assert len(read("emoji", 4)) == 4 and parameters()
"""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr
