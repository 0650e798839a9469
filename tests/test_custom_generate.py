"""The door of transformers: generate(custom_generate=pjd.decoding(...)) on its own classes."""

import shutil

import pytest
import torch
from backbones import ANOLE, LUMINA, greedy, tiny_chameleon, tiny_llama
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation import GenerateDecoderOnlyOutput

import pjd
from pjd.generation import generate
from pjd.models import chameleon
from pjd.paths import ROOT

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


def test_without_a_negative_prompt_the_last_token_stands_for_it(monkeypatch):
    monkeypatch.setattr(chameleon, "anole", lambda: ANOLE)
    model, language = tiny_chameleon(ANOLE)
    ids = torch.tensor([model.prompt("cat", True)])
    outs = [
        language.generate(
            ids, custom_generate=pjd.decoding("ar"), guidance_scale=3.0, do_sample=False, **given
        )
        for given in ({**QUIET}, {**QUIET, "negative_prompt_ids": ids[:, -1:]})
    ]
    assert torch.equal(*outs)


def test_what_is_not_allowed_is_one_line():
    with pytest.raises(pjd.ParameterError, match="context = 0"):
        pjd.decoding(context=0)
    model, language = tiny_chameleon(LUMINA)
    ids = torch.tensor([model.prompt("cat", True)])

    class Other(LogitsProcessor):
        def __call__(self, input_ids, scores):
            return scores

    refused = [
        (language, ids[:, :-1], {}, "input_ids"),
        (language, ids, {"logits_processor": LogitsProcessorList([Other()])}, "Other"),
        (tiny_llama(False)[1], ids, {}, "model_type = 'llama'"),
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
    shutil.copytree(ROOT / "custom_generate", tmp_path / "repository" / "custom_generate")
    published = {"custom_generate": str(tmp_path / "repository"), **given}
    published |= {"pjd_method": "pjd-plus", "pjd_seed": 4, "pjd_options": {"context": 2}}
    # transformers wants that said even of a folder of one's own.
    out = language.generate(ids, trust_remote_code=True, **published)
    assert torch.equal(out, expected)
    with pytest.raises(ValueError, match="trust_remote_code"):
        language.generate(ids, trust_remote_code=False, **published)
