"""Options outside their range are refused by name, value and range."""

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from torch import Tensor

from pjd.decoder.acceptance import (
    ACCEPT_RULES,
    AcceptInputs,
    AcceptRule,
    group,
    lenient,
    ratio,
    survival,
)
from pjd.decoder.config import CHOICES, DecodeConfig
from pjd.decoder.methods import PRESETS, RASTER, configure
from pjd.errors import ParameterError

BAD = [
    ("pjd", {"context": 0}, "context = 0: must be an integer from 1 to 1048576"),
    ("pjd", {"context": "4"}, "context = '4'"),
    ("pjd", {"context": True}, "context = True"),
    ("sjd", {"window": 0}, "window = 0: must be an integer from 1 to 1048576"),
    ("sjd", {"context": 4}, "context = 4: method sjd has no such option"),
    ("pjd", {"mask": False}, "mask = False: must be one of row-causal, none"),
    ("pjd", {"mask": "false"}, "mask = 'false'"),
    ("pjd", {"rows": 0}, "rows = 0"),
    ("ar", {"temperature": -1}, "temperature = -1: must be 0, or a number from 1e-06 to 1e+06"),
    ("ar", {"temperature": float("nan")}, "temperature = nan"),
    ("ar", {"temperature": 1e-40}, "temperature = 1e-40: must be 0, or a number from 1e-06"),
    ("ar", {"temperature": float("inf")}, "temperature = inf"),
    ("ar", {"temperature": "5e-05"}, "temperature = '5e-05'"),
    ("ar", {"guidance": float("inf")}, "guidance = inf: must be a number from 0 to 1000"),
    ("ar", {"guidance": 1e39}, "guidance = 1e+39"),
    ("ar", {"guidance": -0.5}, "guidance = -0.5"),
    ("ar", {"guidance": 10**400}, "guidance = 1000"),
    ("ar", {"seed": 10**5000}, "seed = <int of very many digits>"),
    ("sjd", {"window": 2**63}, "window = 9223372036854775808: must be an integer from 1 to"),
    ("ar", {"top_p": 0}, "top_p = 0"),
    ("ar", {"min_p": 1.5}, "min_p = 1.5"),
    ("ar", {"top_k": -5}, "top_k = -5"),
    ("ar", {"seed": -1}, "seed = -1"),
    ("sjd", {"accept": "luck"}, "accept = 'luck': must be one of ratio, match, group, block, "),
    (
        "mc-sjd",
        {"accept": "block"},
        "accept = 'block': block needs layout raster",
    ),
    ("gsd", {"group_size": 0}, "group_size = 0: must be an integer from 1 to 1048576"),
    ("jacobi", {"redraft": "coupled"}, "redraft = 'coupled': must be fresh or gumbel"),
    ("pjd-staircase", {"mask": "none"}, "lag = 'fixed': fixed needs rows, mask row-causal"),
    ("sjd", {"lag": "fixed"}, "lag = 'fixed': fixed needs rows, mask row-causal"),
    ("pjd", {"context": np.float64(3)}, "context = np.float64(3.0): must be an integer"),
    ("pjd", {"context": np.True_}, "context = np.True_: must be an integer"),
    ("pjd", {"seed": np.int64(-1)}, "seed = np.int64(-1): must be an integer from 0"),
    ("ar", {"top_p": np.float32("nan")}, "top_p = np.float32(nan)"),
    ("ar", {"top_p": Decimal("0.5")}, "top_p = Decimal('0.5')"),
    ("pjd", {"stand_in": "last column"}, "stand_in = 'last column': must be one of newest"),
]


@pytest.mark.parametrize(("method", "options", "message"), BAD)
def test_bad_options_name_parameter_value_and_range(method, options, message):
    with pytest.raises(ParameterError) as error:
        configure(method, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_numbers_are_kept_as_pythons_own():
    config = configure(
        "pjd", context=np.int64(3), top_k=np.uint8(5), seed=np.int32(7), top_p=np.float64(0.5)
    )
    plain = configure("pjd", context=3, top_k=5, seed=7, top_p=0.5)
    assert config == plain and config.digest == plain.digest
    kept = config.context, config.top_k, config.seed, config.top_p
    assert [type(value) for value in kept] == [int, int, int, float]
    halves = configure("pjd", guidance=Fraction(7, 2), temperature=np.int64(2))
    assert (halves.guidance, type(halves.guidance)) == (3.5, float)
    # As it was written, for the names of images.
    assert type(halves.temperature) is type(configure("ar", temperature=2).temperature) is int


@pytest.mark.parametrize(
    ("name", "word"), [(name, word) for name, words in CHOICES.items() for word in words]
)
def test_every_word_of_a_choice_is_allowed(name, word):
    method = "sjd" if word in ("raster", "block") else "pjd"
    options = {**PRESETS[method].choices, name: word}
    assert getattr(DecodeConfig(method, **options), name) == word


def test_the_digest_differs_where_an_option_differs():
    options = [{}, {"seed": 1}, {"mask": "none"}, {"context": 2}, {"temperature": 0}]
    assert len({configure("pjd", **more).digest for more in options}) == len(options)
    assert configure("pjd").digest == configure("pjd").digest


@pytest.mark.parametrize("name", ACCEPT_RULES)
def test_a_rule_that_has_a_name_is_recorded_by_it(name):
    assert DecodeConfig("sjd", **{**RASTER, "accept": name}).as_dict()["accept"] == name
    given = DecodeConfig("sjd", **{**RASTER, "accept": ACCEPT_RULES[name]})
    recorded = "lenient 0.75" if name == "lenient" else name
    assert given.as_dict()["accept"] == recorded
    assert given.digest == DecodeConfig("sjd", **{**RASTER, "accept": name}).digest


def of_ones_own(inputs: AcceptInputs) -> Tensor:
    """A test of a draft."""
    return inputs.uniforms < 0.5


def depends(threshold: float) -> Callable[[AcceptInputs], Tensor]:
    """A test of a draft that depends on what is around it."""
    return lambda inputs: inputs.uniforms < threshold


def renamed(threshold: float) -> Callable[[AcceptInputs], Tensor]:
    """The same, with a name."""
    test = depends(threshold)
    test.__name__ = f"below {threshold}"
    return test


def test_rules_of_ones_own_are_told_apart():
    rules = {
        "group(near=0.9)": AcceptRule(partial(group, near=0.9)),
        "group(close=0.1, near=0.9)": AcceptRule(partial(group, near=0.9, close=0.1)),
        "ratio, correction sampled": AcceptRule(ratio, correction="sampled"),
        "ratio, share survival": AcceptRule(ratio, share=survival),
        "lenient 0.5": lenient(0.5),
        f"{__name__}.of_ones_own": AcceptRule(of_ones_own),
        f"{__name__}.below 0.25": AcceptRule(renamed(0.25)),
        f"{__name__}.below 0.75": AcceptRule(renamed(0.75)),
    }
    configs = {name: configure("sjd", accept=rule) for name, rule in rules.items()}
    assert {name: config.as_dict()["accept"] for name, config in configs.items()} == {
        name: name for name in rules
    }
    assert len({config.digest for config in configs.values()}) == len(rules)


def test_a_rule_that_cannot_be_told_from_others_is_not_recorded():
    for test in (depends(0.5), partial(depends(0.5))):
        with pytest.raises(ParameterError, match=r"accept = .*: cannot be told from other rules"):
            configure("sjd", accept=AcceptRule(test)).as_dict()


def test_lenience_tells_configurations_apart_and_its_name_is_the_same_configuration():
    named, given, near = (
        configure("mc-sjd", accept=accept)
        for accept in ("lenient", lenient(0.75), lenient(0.75 + 1e-9))
    )
    assert named.digest == given.digest != near.digest
