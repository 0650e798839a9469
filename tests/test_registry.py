"""Models by name: what is missing is said."""

import pytest

from pjd.errors import ParameterError
from pjd.models import emoji
from pjd.models.registry import resolve


def test_missing_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("pjd.models.registry.WEIGHTS", tmp_path)
    for name in ("emoji", "emoji-64"):
        with pytest.raises(ParameterError, match="dvc pull"):
            resolve(name)
    with pytest.raises(FileNotFoundError, match="dvc pull"):
        emoji.load("x", tmp_path)
