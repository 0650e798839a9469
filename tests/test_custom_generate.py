"""The door of transformers: generate(custom_generate=pjd.decoding(...)) on its own classes."""

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, TextStreamer
from transformers.generation import GenerateDecoderOnlyOutput, MaxTimeCriteria

import pjd
from pjd.api import generate
from pjd.models import chameleon
from pjd.paths import ROOT
from tests.backbones import ANOLE, LUMINA, greedy, tiny_chameleon, tiny_llama

QUIET = {"max_new_tokens": 64, "pad_token_id": 47}


def padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and attention mask of prompts, padded at the left."""
    length = max(map(len, rows))
    ids = torch.tensor([[47] * (length - len(row)) + row for row in rows])
    return ids, (ids != 47).long()


@pytest.mark.parametrize("written", [LUMINA, ANOLE], ids=["lumina", "anole"])
def test_chameleon_gives_the_tokens_of_the_adapter_after_the_prompt(written, monkeypatch):
    # Anole's images are 512 pixels wide, which is too large here.
    monkeypatch.setattr(chameleon, "anole", lambda: ANOLE)
    model, language = tiny_chameleon(written)
    prompts = ["cat", "red dog"]
    ids, mask = padded([model.prompt(text, True) for text in prompts])
    negative, negative_mask = padded([model.prompt(text, False) for text in prompts])
    given = {"attention_mask": mask, **QUIET, "guidance_scale": 2.0, "do_sample": False}
    given |= {"negative_prompt_ids": negative, "negative_prompt_attention_mask": negative_mask}
    columns = model.grid.columns
    expected = greedy(model, language, prompts, 2.0)
    for method, options in {"ar": {}, "sjd": {"window": 4}, "pjd": {"context": columns}}.items():
        door = pjd.decoding(method, **options)
        out = language.generate(ids, custom_generate=door, **given)
        assert torch.equal(out[:, : ids.shape[1]], ids)
        image = out[:, ids.shape[1] :].unflatten(1, (model.grid.rows, -1))
        assert torch.equal(image[..., :columns].flatten(1), model.tokens[expected])
        if model.grid.row_end is not None:
            assert (image[..., columns] == model.grid.row_end).all()
    sampled = generate(model, prompts, "pjd", context=2, seed=3, guidance=2.0, top_k=5)
    given |= {"do_sample": True, "top_k": 5, "return_dict_in_generate": True}
    out = language.generate(ids, custom_generate=pjd.decoding(context=2, seed=3), **given)
    assert isinstance(out, GenerateDecoderOnlyOutput)
    image = out.sequences[:, ids.shape[1] :].unflatten(1, (model.grid.rows, -1))
    assert torch.equal(image[..., :columns].flatten(1), model.tokens[sampled.tokens])


@pytest.mark.parametrize(("written", "length"), [(LUMINA, 3), (ANOLE, 1)], ids=["lumina", "anole"])
def test_without_a_negative_prompt_what_begins_the_image_stands_for_it(
    written, length, monkeypatch
):
    monkeypatch.setattr(chameleon, "anole", lambda: ANOLE)
    model, language = tiny_chameleon(written)
    ids = torch.tensor([model.prompt("cat", True)])
    given = {**QUIET, "guidance_scale": 3.0, "do_sample": False}
    out = language.generate(ids, custom_generate=pjd.decoding("ar"), **given)
    for last in (1, 3):
        given["negative_prompt_ids"] = ids[:, -last:]
        other = language.generate(ids, custom_generate=pjd.decoding("ar"), **given)
        assert torch.equal(out, other) == (last == length)


def test_the_model_is_left_as_it_was(monkeypatch):
    model, _ = tiny_chameleon(LUMINA)
    _, language = tiny_chameleon(LUMINA)
    language.set_attn_implementation({"": "eager", "vq_config": "sdpa"})
    language.train().requires_grad_(True)
    language.model.layers[0].eval()
    language.lm_head.requires_grad_(False)

    def state():
        parts = [part for part in language.modules() if isinstance(part, PreTrainedModel)]
        return (
            [module.training for module in language.modules()],
            [parameter.requires_grad for parameter in language.parameters()],
            [part.config._attn_implementation for part in parts],
        )

    before = state()
    assert all(len(set(values)) == 2 for values in before)
    ids = torch.tensor([model.prompt("cat", True)])
    given = {**QUIET, "negative_prompt_ids": torch.tensor([model.prompt("cat", False)])}
    given |= {"do_sample": True, "top_k": 5, "guidance_scale": 2.0}
    out = language.generate(ids, custom_generate=pjd.decoding(seed=1), **given)
    assert state() == before
    expected = generate(model, ["cat"], "pjd", seed=1, guidance=2.0, top_k=5)
    image = out[:, ids.shape[1] :].unflatten(1, (model.grid.rows, -1))[..., :-1]
    assert torch.equal(image.flatten(1), model.tokens[expected.tokens])
    # After a failure too.
    with monkeypatch.context() as broken:
        broken.setattr("pjd.custom_generate.decode_all", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            language.generate(ids, custom_generate=pjd.decoding(), **given)
    assert state() == before


def test_what_is_not_allowed_is_one_line():
    with pytest.raises(pjd.ParameterError, match="columns = 3: no such option; options are"):
        pjd.decoding("pjd", columns=3)
    with pytest.raises(pjd.ParameterError, match="context = 0"):
        pjd.decoding(context=0)
    model, language = tiny_chameleon(LUMINA)
    ids = torch.tensor([model.prompt("cat", True)])

    class Other(LogitsProcessor):
        def __call__(self, input_ids, scores):
            return scores

    told = {"return_dict_in_generate": True}
    refused = [
        (language, ids[:, :-1], {}, "input_ids"),
        (language, ids, {"logits_processor": LogitsProcessorList([Other()])}, "Other"),
        (tiny_llama(False)[1], ids, {}, "model_type = 'llama'"),
        (
            language,
            ids,
            {"stopping_criteria": [MaxTimeCriteria(9)]},
            "stopping_criteria = 'MaxTime",
        ),
        (language, ids, {"max_time": 9.0}, "stopping_criteria = 'MaxTime"),
        (language, ids, {"num_beams": 2}, "num_beams = 2"),
        (language, ids, {"output_scores": True, **told}, "output_scores = True: must be False"),
        (language, ids, {"output_logits": True, **told}, "output_logits = True: must be False"),
        (language, ids, {"output_attentions": True, **told}, "output_attentions = True"),
    ]
    for other, tokens, given, message in refused:
        with pytest.raises(pjd.ParameterError, match=message):
            other.generate(tokens, custom_generate=pjd.decoding(), **QUIET, **given)


def test_the_folder_for_the_hub_gives_the_same_tokens(tmp_path, monkeypatch):
    cache = "transformers.dynamic_module_utils.HF_MODULES_CACHE"
    monkeypatch.setattr(cache, str(tmp_path / "modules"))
    model, language = tiny_chameleon(LUMINA)
    ids = torch.tensor([model.prompt("cat", True)])
    negative = torch.tensor([model.prompt("cat", False)])
    given = {**QUIET, "guidance_scale": 2.0, "top_k": 5, "do_sample": True}
    given |= {"negative_prompt_ids": negative}
    door = pjd.decoding("pjd-plus", context=2, seed=4)
    expected = language.generate(ids, custom_generate=door, **given)
    # The repository itself has the layout of one on the Hub.
    published = {"custom_generate": str(ROOT), **given}
    published |= {"pjd_method": "pjd-plus", "pjd_seed": 4, "pjd_options": {"context": 2}}
    # transformers wants that said even of a folder of one's own.
    out = language.generate(ids, trust_remote_code=True, **published)
    assert torch.equal(out, expected)
    with pytest.raises(pjd.ParameterError, match="streamer = 'TextStreamer': must be None"):
        streamer = TextStreamer(None)
        language.generate(ids, trust_remote_code=True, streamer=streamer, **published)
    with pytest.raises(ValueError, match="trust_remote_code"):
        language.generate(ids, trust_remote_code=False, **published)


def test_logits_that_are_no_numbers_stop_generate_and_leave_the_model_as_it_was():
    model, language = tiny_chameleon(LUMINA)
    ids = torch.tensor([model.prompt("cat", True)])
    language.train()
    for value in (float("nan"), float("inf")):
        with torch.no_grad():
            language.lm_head.weight[model.tokens[3]] = value
        with pytest.raises(pjd.LogitsError, match=r"the image with seed 5, step 1: .*damaged"):
            language.generate(ids, custom_generate=pjd.decoding(seed=5), **QUIET)
        assert language.training


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pixel_values", torch.zeros(1, 3, 32, 32)),
        ("inputs_embeds", torch.zeros(1, 8, 32)),
        ("labels", torch.zeros(1, 8, dtype=torch.long)),
        ("position_ids", torch.arange(1, 9)[None]),
    ],
)
def test_an_input_that_is_not_read_is_refused_by_name(name, value):
    model, language = tiny_chameleon(LUMINA)
    ids = torch.tensor([model.prompt("cat", True)])
    with pytest.raises(pjd.ParameterError, match=f"{name} = .*: cannot be used: ") as raised:
        language.generate(ids, custom_generate=pjd.decoding(), **QUIET, **{name: value})
    assert "\n" not in str(raised.value)


def test_a_filled_cache_and_another_search_are_refused():
    model, language = tiny_chameleon(LUMINA)
    ids = torch.tensor([model.prompt("cat", True)])
    filled = language.model(ids[:, :4], use_cache=True).past_key_values
    given = {"past_key_values": filled, "attention_mask": torch.ones_like(ids)}
    with pytest.raises(pjd.ParameterError, match="past_key_values = 'DynamicCache': cannot"):
        language.generate(ids, custom_generate=pjd.decoding(), **QUIET, **given)
    with pytest.raises(pjd.ParameterError, match="generation mode = 'assisted_generation'"):
        given = {"prompt_lookup_num_tokens": 3}
        language.generate(ids, custom_generate=pjd.decoding(), **QUIET, **given)


@pytest.mark.parametrize("count", [1, 3])
def test_negative_prompts_are_as_many_as_prompts(count):
    model, language = tiny_chameleon(LUMINA)
    ids, mask = padded([model.prompt(text, True) for text in ("cat", "red dog")])
    negative = torch.tensor([model.prompt("cat", False)] * count)
    given = {"attention_mask": mask, "guidance_scale": 2.0, "negative_prompt_ids": negative}
    message = f"negative_prompt_ids = {count}: must be 2 sequences, one per prompt"
    with pytest.raises(pjd.ParameterError, match=message):
        language.generate(ids, custom_generate=pjd.decoding(), **QUIET, **given)
    hidden = torch.zeros(2, negative.shape[1], dtype=torch.long)
    given |= {"negative_prompt_ids": negative[:1].expand(2, -1)}
    with pytest.raises(pjd.ParameterError, match="negative_prompt_ids = 0: must hold a token"):
        given["negative_prompt_attention_mask"] = hidden
        language.generate(ids, custom_generate=pjd.decoding(), **QUIET, **given)
    with pytest.raises(pjd.ParameterError, match="input_ids = 1: must hold a token"):
        given["attention_mask"] = mask * torch.tensor([[1], [0]])
        language.generate(ids, custom_generate=pjd.decoding(), **QUIET, **given)


@pytest.mark.parametrize(
    ("setting", "value", "option", "chosen"),
    [
        ("guidance_scale", 2.0, "guidance", 3.0),
        ("temperature", 0.5, "temperature", 0.7),
        ("top_k", 3, "top_k", 5),
        ("top_p", 0.5, "top_p", 0.9),
        ("min_p", 0.5, "min_p", 0.9),
    ],
)
def test_a_setting_is_given_to_generate_or_to_the_door(setting, value, option, chosen):
    model, language = tiny_chameleon(LUMINA)
    ids = torch.tensor([model.prompt("cat", True)])
    given = {**QUIET, "do_sample": True}
    message = f"{setting} = {value}: is given twice, to pjd.decoding as {chosen}"
    with pytest.raises(pjd.ParameterError, match=message):
        door = pjd.decoding(**{option: chosen})
        language.generate(ids, custom_generate=door, **given, **{setting: value})
    there = language.generate(ids, custom_generate=pjd.decoding(), **given, **{setting: value})
    here = language.generate(ids, custom_generate=pjd.decoding(**{option: value}), **given)
    both = pjd.decoding(**{option: value})
    assert torch.equal(there, here)
    assert torch.equal(there, language.generate(ids, custom_generate=both, **given))


def test_what_sampling_a_reader_gets():
    """README's line samples all tokens; without do_sample it is greedy, without top_k among 50."""
    model, language = tiny_chameleon(LUMINA)
    ids = torch.tensor([model.prompt("cat", True)])
    seen = []

    def config(*_: object, **__: object) -> None:
        seen.append(_[1])
        raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pjd.custom_generate.decode_all", config)
        patch.setattr("pjd.custom_generate.check_fit", lambda *_: None)
        for given in ({"do_sample": True, "top_k": 0}, {"do_sample": True}, {}):
            with pytest.raises(InterruptedError):
                language.generate(ids, custom_generate=pjd.decoding(), **QUIET, **given)
    assert [(one.temperature, one.top_k) for one in seen] == [(1.0, 0), (1.0, 11), (0.0, 0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pjd_options": {"method": "ar"}}, "method = 'ar': is no option"),
        ({"pjd_options": {"seed": 3}}, "seed = 3: is given twice, also as pjd_seed = 0"),
        ({"pjd_options": "context"}, "options = 'context': must be a mapping"),
        ({"pjd_options": {"contxt": 1}}, "contxt = 1: no such option"),
        ({"assistant_model": torch.nn.Linear(1, 1)}, "assistant_model = 'Linear': must be None"),
    ],
)
def test_the_folder_refuses_in_one_line(options, message):
    from custom_generate.generate import generate as published

    with pytest.raises(pjd.ParameterError, match=message):
        published(None, **options)


def test_the_folder_brings_negative_prompts_to_its_guidance(tmp_path):
    from custom_generate.generate import generate as published

    model, language = tiny_chameleon(LUMINA)
    ids = torch.tensor([model.prompt("cat", True)])
    negative = {"negative_prompt_ids": torch.tensor([model.prompt("red dog", True)])}
    options = {"guidance": 3.0}
    with_it = published(language, pjd_options=options, inputs=ids, **QUIET, **negative)
    expected = language.generate(
        ids, custom_generate=pjd.decoding(), guidance_scale=3.0, **QUIET, **negative
    )
    assert torch.equal(with_it, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": "12"}, "seeds = '12': must be a list of integers"),
        ({"seeds": 5}, "seeds = 5: must be a list"),
        ({"seeds": [1.5]}, "seed = 1.5: must be an integer"),
        ({"seeds": [1], "seed": 2}, r"seed = 2: must not be given beside seeds = \[1\]"),
    ],
)
def test_seeds_are_a_list_of_integers_or_one_first_seed(options, message):
    with pytest.raises(pjd.ParameterError, match=message):
        pjd.decoding(**options)
