import torch
from tiny import tiny_model

from pjd.attention import attention_map, locality
from pjd.grid import Grid


def test_attention_is_causal_and_adds_up():
    model = tiny_model(grid=4, vocabulary=7)
    tokens = torch.arange(16).remainder(7).expand(2, -1)
    weights = attention_map(model, ["cat", "red dog"], tokens)
    assert weights.shape == (20, 20)
    torch.testing.assert_close(weights.sum(1), torch.ones(20))
    assert (weights.triu(1) == 0).all()


def test_attention_weights_are_those_that_the_model_uses(monkeypatch):
    model = tiny_model(grid=2, vocabulary=7)
    original, seen = torch.nn.functional.scaled_dot_product_attention, []

    def watch(query, key, value, attn_mask):
        # With unit vectors as values, what a query gets is its weights.
        names = torch.eye(key.shape[2]).expand(*key.shape[:2], -1, -1)
        seen.append(original(query, key, names, attn_mask=attn_mask))
        return original(query, key, value, attn_mask=attn_mask)

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", watch)
    weights = attention_map(model, ["cat", "dog"], torch.tensor([[0, 1, 2, 3], [4, 5, 6, 0]]))
    assert len(seen) == 2
    torch.testing.assert_close(weights, torch.stack(seen).mean((0, 1, 2)))


def test_locality_counts_by_distance():
    # Every code looks at itself and at the one above it, half and half.
    grid = Grid(3, 3)
    weights = torch.eye(9) / 2
    weights[3:, :6] += torch.eye(6) / 2
    weights[:3] *= 2
    table = locality(weights, grid).set_index(["rows", "columns"])
    assert table.mass[(0, 0)] == (3 * 1 + 6 * 0.5) / 9 and table.mass[(1, 0)] == 0.5
    assert table.mass[(1, 1)] == 0 and abs(table.share.sum() - 1) < 1e-12
