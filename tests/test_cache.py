"""The slot cache: in whatever order slots are written, each holds what its last token saw."""

import pytest
import torch

from pjd.decoder.cache import SlotCache, SlotMap, SplitCache
from pjd.decoder.engine import Engine
from pjd.decoder.mask import causal
from pjd.decoder.methods import configure
from tests.decoding import BY_ROWS, PROMPTS, engine_of
from tests.enumeration import RowEnds
from tests.tiny import tiny_model


def test_slots_are_blank_then_stand_ins_then_prompt_then_image():
    slots = SlotMap(n_lanes=3, prompt=4, image=36)
    assert (slots.blank, slots.first_stand_in, slots.first_prompt) == (0, 1, 4)
    assert (slots.first_image, slots.total) == (8, 44)


def test_a_slot_keeps_what_was_written_last():
    cache = SlotCache(layers=1, batch=1, heads=1, slots=5, head_dim=1)
    for slots, values in (([0, 3], [1.0, 2.0]), ([3, 4], [5.0, 6.0])):
        written = torch.tensor(values).view(1, 2, 1, 1)
        keys, _ = cache.at(torch.tensor([slots]), used=4).layer(0).update(written, written)
    # Only the first four slots may be read in the last forward pass.
    assert keys.flatten().tolist() == [1, 0, 0, 5]
    assert cache.values.flatten().tolist() == [1, 0, 0, 5, 6]


def test_a_cache_on_several_devices_answers_as_one_on_one_device_but_keeps_blanks():
    cpu, fed = torch.device("cpu"), torch.tensor([1])
    split = SplitCache([cpu, cpu], 1, 1, 5, 1, torch.float32)
    whole = SlotCache(layers=2, batch=1, heads=1, slots=5, head_dim=1)
    written = torch.ones(1, 2, 1, 1)
    for cache in (split, whole):
        cache = cache.select(torch.tensor([0])).at(torch.tensor([[0, 3]]), used=4, fed=fed)
        keys, _ = cache.layer(1).update(written, written)
        assert keys.flatten().tolist() == [1, 0, 0, 1]
        assert cache.place.slot.tolist() == [[0, 3]] and cache.place.used == 4
        place = cache.leave_out_blanks()
        assert place is cache.place
        assert place.slot.tolist() == ([[0, 3]] if cache.place.fed is None else [3])
    assert whole.at(torch.tensor([[0, 3]]), fed=fed).leave_out_blanks().fed is fed
    assert split.at(torch.tensor([[0, 3]]), fed=fed).leave_out_blanks().fed is None


@pytest.mark.parametrize("prompt", PROMPTS[:3])
@pytest.mark.parametrize(
    ("method", "options"),
    [("pjd", {"window": 4}), ("pjd-plus", {}), ("pjd-staircase", {}), ("sjd", {}), ("zipar", {})],
)
def test_slots_in_wavefront_order_equal_one_full_forward_pass(model, prompt, method, options):
    # With the whole row above as context, the keys and values of every committed slot are those
    # of one teacher-forced forward pass over the final tokens.
    if method != "sjd":
        options = {"context": 6, **options}
    config = configure(method, guidance=2.0, **options)
    engine = engine_of(model, config, [prompt], torch.arange(1))
    decoded = engine.run()
    length = engine.prompt.mask.shape[1] + model.grid.n_codes
    image = model.embed(decoded.tokens).repeat(2, 1, 1)
    x = torch.cat([engine.prompt.embeddings, image], dim=1)
    shown = torch.nn.functional.pad(engine.prompt.mask, (0, model.grid.n_codes), value=True)
    cache = model.cache(2, length)
    slots = torch.arange(length).expand(2, -1)
    model.forward(x, slots, causal(shown, length), cache.at(slots))
    # The very last token is never fed, because nothing comes after it.
    for mine, theirs in ((engine.cache.keys, cache.keys), (engine.cache.values, cache.values)):
        mine = mine[:, :, :, engine.slots.first_prompt :]
        torch.testing.assert_close(mine[..., :-1, :], theirs[..., :-1, :], atol=1e-4, rtol=1e-4)


def recomputed(engine: Engine) -> tuple[torch.Tensor, dict[int, int]]:
    """Decode, then compute again all that was fed, in one forward pass that overwrites nothing.

    Returns:
        The largest difference between what the slots hold in the end and what was recomputed, and
        the index of the last token that was fed to each slot.
    """
    model, forward = engine.model, engine.model.forward
    fed, seen, newest = [], [], {}

    def recording(x, positions, mask, cache):
        slots = cache.place.unpack(cache.place.slot)[0]
        queries = [query for query, slot in enumerate(slots.tolist()) if slot]
        for query in queries:
            newest[int(slots[query])] = len(fed)
            fed.append((x[:, query], positions[:, query].expand(len(x))))
        for query in queries:
            shown = mask[:, 0, query].expand(len(x), -1)
            seen.append(
                [[newest[slot] for slot in row.nonzero().flatten().tolist()] for row in shown]
            )
        return forward(x, positions, mask, cache)

    model.forward = recording
    engine.run()
    model.forward = forward
    branches, count = len(fed[0][0]), len(fed)
    mask = torch.zeros(branches, 1, count, count, dtype=torch.bool)
    for query, rows in enumerate(seen):
        for branch, keys in enumerate(rows):
            mask[branch, 0, query, keys] = True
    cache = model.cache(branches, count)
    x, positions = (torch.stack(parts, 1) for parts in zip(*fed, strict=True))
    forward(x, positions, mask, cache.at(torch.arange(count).expand(branches, -1)))
    slots, indices = list(newest), list(newest.values())
    pairs = ((engine.cache.keys, cache.keys), (engine.cache.values, cache.values))
    differences = [(held[..., slots, :] - again[..., indices, :]).abs() for held, again in pairs]
    return torch.stack(differences).max(), newest


@pytest.mark.parametrize("row_ends", [False, True])
@pytest.mark.parametrize("method", BY_ROWS)
def test_every_slot_holds_what_its_last_token_saw(method, row_ends):
    model = RowEnds(4, 4, 11, 0) if row_ends else tiny_model(grid=6, vocabulary=11)
    config = configure(method, guidance=2.0, context=2)
    engine = engine_of(model, config, ["red cat"], torch.tensor([3]))
    with torch.inference_mode():
        difference, newest = recomputed(engine)
    assert difference < 1e-4
    # Every position of the image is fed but the last, or the last token and its row end.
    image = range(engine.slots.first_image, engine.slots.first_image + model.grid.length)
    unfed = [slot for slot in image if slot not in newest]
    assert len(unfed) <= 2 and all(slot >= image[-2] for slot in unfed)
