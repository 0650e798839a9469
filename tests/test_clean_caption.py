"""Captions as LlamaGen's text encoder reads them."""

import pytest

from pjd.models.clean_caption import clean


# What the official ``T5Embedder.text_preprocessing`` makes of each.
@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A photo of a red fox in the snow.", "a photo of a red fox in the snow."),
        ("  Tab\tand\nline  ", "tab and line"),
        ("a sign that says \u201cDeep Learning\u201d", 'a sign that says "deep learning"'),
        ("the man\u2019s dog", "the man's dog"),
        ("salt & pepper", "salt pepper"),
        ("a 2x2 grid of cats", "a grid of cats"),
        ("the u.s. flag", "the u. s. flag"),
        ("black/white", "black white"),
        ("an all-you-can-eat-buffet-bar", "an all you can eat buffet bar"),
        ("see https://example.com/x for more", "see for more"),
        ("IMG_1234.jpg of a cat", "of a cat"),
        ("<b>bold</b> &amp; plain", "bold plain"),
        ("a cat \u732b", "a cat"),
        ("one \u2014 two", "one - two"),
        ("\u201cquoted\u201d", "quoted"),
        ("schr\u00f6dinger's \ufb01sh", "schr\u00f6dinger's fish"),
        ("123456", ""),
    ],
)
def test_captions_are_cleaned_as_by_the_official_code(caption, expected):
    assert clean(caption) == expected
