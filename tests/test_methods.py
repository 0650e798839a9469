"""The presets, and how a configuration is made from one."""

import pytest

from pjd.decoder.config import DecodeConfig
from pjd.decoder.methods import KNOBS, PRESETS, combine, configure
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


@pytest.mark.parametrize("method", ["ar", "zipar", "zipar-adaptive"])
def test_a_method_without_drafts_has_no_other_window(method):
    assert configure(method, window=1) == configure(method)
    with pytest.raises(ParameterError, match=f"window = 16: must be 1: {method} drafts nothing"):
        configure(method, window=16)


def test_an_option_that_is_none_keeps_the_presets_value():
    assert configure("pjd", window=None, context=2) == configure("pjd", context=2)
    assert configure("pjd", context=2).window == PRESETS["pjd"].choices["window"]


def test_a_window_of_rows_grows_with_the_grid_unless_it_is_given():
    assert configure("mc-sjd").window == 32
    assert configure("mc-sjd", columns=24).window == 48
    assert configure("mc-sjd", columns=24, window=5).window == 5
    assert configure("sjd", columns=24).window == configure("sjd").window


def test_options_of_several_places_are_put_together():
    assert combine({"context": 4, "top_k": None}, {"top_k": 5}, {}) == {"context": 4, "top_k": 5}
    # 0 is a value, None is none.
    assert combine({"guidance": 0}, {"guidance": None}) == {"guidance": 0}


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (({"context": 4}, {"context": 8}), "context = 8: is given twice, also as 4"),
        (({"seed": 0}, {}, {"seed": 0}), "seed = 0: is given twice, also as 0"),
        (({"mask": "none"}, {"mask": "released"}), "mask = 'released': is given twice, also as 'n"),
        (({}, {"method": "ar"}), "method = 'ar': is no option of a method: name the method"),
        (({"layout": "rows"},), "layout = 'rows': is what a method is made for"),
        (({"contxt": 1},), "contxt = 1: no such option"),
        (({1: 2},), "1 = 2: no such option"),
        (({}, "context"), "options = 'context': must be a mapping"),
        (({}, [("context", 4)]), "options = [('context', 4)]: must be a mapping"),
    ],
)
def test_an_option_has_one_place_and_is_one(places, message):
    with pytest.raises(ParameterError) as error:
        combine(*places)
    assert message in str(error.value)
