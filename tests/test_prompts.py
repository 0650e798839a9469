import json

import pytest

from pjd.errors import ParameterError
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


def test_too_few_prompts_or_none(tmp_path, coco):
    with pytest.raises(ParameterError, match=r"images = 3: .* only 2 prompts"):
        read(str(coco), 3)
    with pytest.raises(FileNotFoundError, match="no file"):
        read(str(tmp_path / "absent.txt"))
    with pytest.raises(ParameterError, match="images = 100000"):
        read("emoji", 100_000)
