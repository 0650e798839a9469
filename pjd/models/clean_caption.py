"""What LlamaGen's caption models saw in training: captions cleaned as alt texts of the web are.

The rules are those of the official ``language/t5.py``, in its order, and like there they are
applied twice. Some change ordinary captions: curly quotes, "&", "2x2" and "u.s.".
"""

import html
import re
import warnings
from urllib.parse import unquote_plus

import ftfy
from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning

Rules = tuple[tuple[str, str], ...]
"""Pairs of a pattern and what takes the place of every match, in the order of application."""

DOMAIN = r"[a-z0-9.-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
FILE_TYPES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"

ADDRESSES: Rules = (
    ("<person>", "person"),
    (rf"\b(?:https?:(?:/{{1,3}}|[a-z0-9%])|{DOMAIN})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-z0-9%])|{DOMAIN})", ""),
)
"""Applied to the caption in lower case, before markup is removed."""

SIGNS: Rules = (
    (r"@\w+", ""),
    # Chinese characters, and the blocks between them and the katakana.
    (r"[\u31c0-\u9fff]+", ""),
    # Dashes of all scripts.
    (
        r"[\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030"
        r"\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d]+",
        "-",
    ),
    ("[\u0060\u00b4\u00ab\u00bb\u201c\u201d\u00a8]", '"'),
    ("[\u2018\u2019]", "'"),
    ("&quot;?", ""),
    ("&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),
    # The end of a time of day.
    (r"\d:\d\d\s+$", ""),
    # A line break that was written as two characters.
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.(?:{FILE_TYPES})", ""),
    ("[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]+", " "),
    (r"\s+\.\s+", " "),
)
"""Applied to the text without markup."""

WORDS: Rules = (
    # Numbers of articles.
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    # The language of shops.
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{FILE_TYPES})(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    # Sizes; the second sign is Cyrillic.
    ("\\b\\d+\\.?\\d*[x\u0445\u00d7]\\d+\\.?\\d*\\b", ""),
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"""^["']([\w\W]+)["']$""", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)
"""Applied after broken Unicode has been repaired."""


def apply(rules: Rules, text: str) -> str:
    """``text`` after all ``rules``."""
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def without_markup(text: str) -> str:
    """The text of what may be HTML."""
    with warnings.catch_warnings():
        # A caption may look like the name of a file.
        warnings.simplefilter("ignore", MarkupResemblesLocatorWarning)
        return BeautifulSoup(text, features="html.parser").text


def clean_once(caption: str) -> str:
    """One round of the rules."""
    text = apply(ADDRESSES, unquote_plus(caption).strip().lower())
    text = apply(SIGNS, without_markup(text))
    # More than three of them stand in place of spaces.
    if len(re.findall("[-_]", text)) > 3:
        text = re.sub("[-_]", " ", text)
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return apply(WORDS, text).strip()


def clean(caption: str) -> str:
    """``caption`` as the text encoder is to read it."""
    return clean_once(clean_once(caption))
