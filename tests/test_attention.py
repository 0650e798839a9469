import pytest
import torch

from pjd.decoder.grid import Grid
from pjd.measure.attention import attention_map, locality
from pjd.measure.fidelity import teacher_forced
from pjd.models.llamagen import rotate
from tests.backbones import MODELS
from tests.tiny import tiny_model


def test_attention_is_causal_and_adds_up():
    model = tiny_model(grid=4, vocabulary=7)
    tokens = torch.arange(16).remainder(7).expand(2, -1)
    weights = attention_map(model, ["cat", "red dog"], tokens)
    # Four places of the caption, and all codes but the last.
    assert weights.shape == (19, 19)
    torch.testing.assert_close(weights.sum(1), torch.ones(19))
    assert (weights.triu(1) == 0).all()


def test_attention_weights_are_those_of_queries_and_keys():
    model = tiny_model(grid=2, vocabulary=7)
    seen = []

    def watch(module, inputs):
        x, rotation, mask = inputs[:3]
        query, key, _ = module.wqkv(x).unflatten(-1, (3, module.heads, -1)).unbind(-3)
        query, key = (rotate(part, rotation).transpose(1, 2) for part in (query, key))
        scores = torch.einsum("bhqd,bhkd->bhqk", query, key) / query.shape[-1] ** 0.5
        seen.append(scores.masked_fill(~mask, float("-inf")).softmax(-1))

    for layer in model.transformer.layers:
        layer.attention.register_forward_pre_hook(watch)
    weights = attention_map(model, ["cat", "dog"], torch.tensor([[0, 1, 2, 3], [4, 5, 6, 0]]))
    # Two images of two layers.
    assert len(seen) == 4
    torch.testing.assert_close(weights, torch.stack(seen).mean((0, 1, 2)))


@pytest.mark.parametrize("name", MODELS)
def test_attention_weights_are_those_that_transformers_reports(name):
    model, _ = MODELS[name]()
    tokens = torch.arange(model.grid.n_codes)[None] % model.vocabulary
    found = attention_map(model, ["red cat"], tokens)
    x, positions, mask = teacher_forced(model, model.encode(["red cat"], guided=False), tokens)
    assert len(found) == x.shape[1] == len(model.prompt("red cat", True)) + model.grid.length - 1
    model.backbone.set_attn_implementation("eager")
    reported = model.backbone(
        inputs_embeds=x,
        # "eager" adds its mask to the scores.
        attention_mask=torch.where(mask, 0.0, float("-inf")),
        position_ids=positions,
        use_cache=False,
        output_attentions=True,
    ).attentions
    torch.testing.assert_close(found, torch.cat(reported).mean((0, 1)))


@pytest.mark.parametrize("row_end", [None, 5])
def test_locality_counts_by_distance(row_end):
    # Every code looks at itself and at the one above it, half and half; a row end at itself.
    grid = Grid(3, 3, row_end)
    stride, length = grid.stride, grid.length - 1
    place = torch.arange(length)
    weights = torch.eye(length) / 2
    weights[place[stride:], place[:-stride]] = 0.5
    weights[:stride] *= 2
    table = locality(weights, grid).set_index(["rows", "columns"])
    # The last input is the last code but one, or the last code if a row end follows it.
    codes = 8 if row_end is None else 9
    assert table.mass[(0, 0)] == pytest.approx((3 * 1 + (codes - 3) * 0.5) / codes)
    assert table.mass[(1, 0)] == 0.5
    assert table.mass[(1, 1)] == 0 and table.share.sum() == pytest.approx(1)
