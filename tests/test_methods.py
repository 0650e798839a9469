"""The presets, and how a configuration is made from one."""

import pytest

from pjd.decoder.config import DecodeConfig
from pjd.decoder.methods import KNOBS, PRESETS, configure
from pjd.errors import ParameterError


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("ar", {"contxt": 1}, "contxt = 1: no such option"),
        ("magic", {}, "method = 'magic': must be one of ar, jacobi, sjd"),
    ],
)
def test_an_unknown_method_or_option_is_refused_by_name(method, options, message):
    with pytest.raises(ParameterError) as error:
        configure(method, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", PRESETS)
def test_a_preset_has_the_options_that_it_names(method):
    preset, config = PRESETS[method], configure(method)
    assert preset.choices.keys() <= DecodeConfig.names()
    assert preset.knob is None or preset.knob in KNOBS
    assert preset.by_rows == (config.context is not None)


def test_an_option_that_is_none_keeps_the_presets_value():
    assert configure("pjd", window=None, context=2) == configure("pjd", context=2)
    assert configure("pjd", context=2).window == PRESETS["pjd"].choices["window"]
