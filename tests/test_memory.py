"""What a model needs, computed from sizes, is what its tensors take."""

import gc
import weakref
from functools import cache

import pytest
import torch

from benchmarks.decoders import MAKE, SIDES, peak
from benchmarks.peak import Peak
from pjd.api import generate
from pjd.decoder.cache import SlotCache
from pjd.models import memory
from pjd.models.catalogue import CATALOGUE
from pjd.models.llamagen_official import FORMATS, ClassEmbedder
from pjd.models.memory import NONE, SIZES, Sizes, needs
from pjd.models.movq import MoVQ
from tests.backbones import BASE, CODES, MODELS
from tests.test_movq import CONFIG as MOVQ_CONFIG
from tests.tiny import tiny_model

DECODERS = {
    "Chameleon's VQGAN": memory.CHAMELEON_VQ,
    "MoVQGAN": memory.MOVQ,
    "LlamaGen's VQ-16": memory.LLAMAGEN_VQ,
    "Janus-Pro's": memory.JANUS_VQ,
    "Emu3's": memory.EMU3_VQ,
}


def matrices(*modules: torch.nn.Module) -> int:
    """Bytes of all matrices, each once."""
    found = {id(p): p.nbytes for m in modules for p in m.parameters() if p.ndim == 2}
    return sum(found.values())


@pytest.mark.parametrize("name", ["llama", "llama-row-ends"])
def test_sizes_say_how_many_bytes_a_transformer_and_its_cache_take(name):
    model, _ = MODELS[name]()
    sizes = Sizes(
        *(BASE["num_hidden_layers"], BASE["hidden_size"], BASE["intermediate_size"]),
        *(BASE["num_attention_heads"], BASE["num_key_value_heads"], BASE["vocab_size"], CODES),
        decoder=NONE,
        prompt=7,
    )
    assert sizes.weights("float32") == matrices(model.backbone, model.head)
    assert sizes.weights("bfloat16") * 2 == sizes.weights("float32")
    made = model.cache(2, 7 + model.grid.length)
    assert sizes.cache(model.grid.length, 2, "float32") == made.keys.nbytes + made.values.nbytes


def test_a_llamagen_too_and_norms_are_what_is_left_out():
    model = tiny_model(grid=6, vocabulary=11)
    config = model.transformer.config
    captions = matrices(model.transformer.cls_embedding) // 4
    sizes = Sizes(
        *(config.layers, config.dim, config.feed_forward, config.heads, config.heads, 11, 11),
        decoder=NONE,
        others=captions,
    )
    assert sizes.weights("float32") == matrices(model.transformer)
    vectors = sum(p.nbytes for p in model.transformer.parameters() if p.ndim != 2)
    assert vectors < 0.02 * matrices(model.transformer)


@pytest.mark.parametrize("name", [name for name in FORMATS if "-c2i-" in name])
def test_the_official_llamagens_are_of_these_sizes(name):
    from pjd.models.llamagen import LlamaGen

    with torch.device("meta"):
        transformer = LlamaGen(FORMATS[name].config)
        transformer.cls_embedding = ClassEmbedder(FORMATS[name].dim)
    assert SIZES[name].weights("float32") == matrices(transformer)


@cache
def counted(name: str, side: int) -> tuple[int, int]:
    return peak(MAKE[name], side, torch.float32)


@pytest.mark.parametrize(("name", "side", "reduction"), SIDES)
def test_the_image_decoders_take_what_the_table_says(name, side, reduction):
    table = DECODERS[name]
    weights, most = counted(name, side)
    assert table.reduction == reduction
    assert 4 * table.numbers == pytest.approx(weights, rel=0.01)
    assert table.per_pixel * (side * reduction) ** 2 == pytest.approx(most, rel=0.01)


def test_a_large_picture_takes_three_tensors_of_the_highest_resolution():
    _, most = counted("Chameleon's VQGAN", 48)
    assert most < 3.05 * 768 * 768 * 128 * 4


def test_what_is_freed_is_not_counted_and_views_are_counted_once():
    with Peak() as counter:
        first = torch.zeros(1000, device="meta")
        second = first.view(10, 100).T
        assert counter.live == 4000
        del first, second
        torch.zeros(500, device="meta").add_(1)
        assert counter.most == 4000
    assert counter.live == 0


@torch.no_grad()
def test_what_a_pixel_gets_from_its_code_needs_no_tensor_of_its_own():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm = MoVQ(MOVQ_CONFIG).decoder.norm_out
        for parameter in norm.parameters():
            torch.nn.init.normal_(parameter)
        x, vectors = torch.randn(2, 32, 24, 40), torch.randn(2, 4, 3, 5)
    places = torch.nn.functional.interpolate(vectors, size=x.shape[2:], mode="nearest")
    expected = norm.norm_layer(x) * norm.conv_y(places) + norm.conv_b(places)
    before = x.clone()
    torch.testing.assert_close(norm(x, vectors), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(x, before)


def test_the_cache_is_gone_before_pixels_are_made(monkeypatch):
    caches, alive = [], []
    plain = SlotCache.__init__

    def remembered(self, *arguments, **options):
        plain(self, *arguments, **options)
        caches.append(weakref.ref(self))

    model = MODELS["llama"]()[0]
    decode = model.decode
    monkeypatch.setattr(SlotCache, "__init__", remembered)
    monkeypatch.setattr(
        model, "decode", lambda codes: alive.extend(c() for c in caches) or decode(codes)
    )
    gc.disable()
    try:
        generate(model, ["a cat", "a dog"], "pjd", guidance=2.0, context=2, batch_size=1)
    finally:
        gc.enable()
    assert len(caches) >= 2 and alive == [None] * len(alive) and alive


def test_every_checkpoint_has_its_needs_in_parts_that_add_up():
    assert SIZES.keys() == CATALOGUE.keys()
    for name in CATALOGUE:
        plain, rounded = needs(name), needs(name, "int8")
        assert plain.total == plain.weights + plain.cache + plain.decoder > 0.3
        assert rounded.weights < plain.weights and rounded[1:] == plain[1:]
        parameters = SIZES[name].weights("float32") / 4
        if "t2i" not in name:
            assert parameters == pytest.approx(CATALOGUE[name].parameters, rel=0.35)


def test_7b_fits_24_gb_with_room_to_spare_and_16_gb_in_8_bits():
    assert needs("lumina-mgpt-7b-768").total < 17
    assert needs("lumina-mgpt-7b-768", "int8").total < 11
    assert needs("lumina-mgpt-7b-1024", "int8").total < 13
