"""Models that `device_map` has placed: offloaded to a disk for real, on several GPUs as fakes."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import accelerate.hooks
import pytest
import torch
from accelerate import dispatch_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import pjd
from pjd.api import generate
from pjd.decoder import engine as engines
from pjd.decoder.cache import SlotCache
from pjd.decoder.compiled import compile_model
from pjd.decoder.engine import Engine
from pjd.decoder.grid import Grid
from pjd.decoder.methods import PRESETS, configure
from pjd.models import chameleon, emu3, janus, transformers_decoder
from pjd.models.attention import sdpa
from pjd.models.transformers_decoder import DecoderModel, Wrapped, code_head
from tests import test_emu3, test_janus
from tests.backbones import BASE, CODES, LUMINA, Tiles, tiny_chameleon, tiny_llama
from tests.decoding import BY_ROWS

LAYER = re.compile(r"(?:model\.)(?:text_model\.|language_model\.)?layers\.(\d+)")
"""The name of a decoder's layer, in every family."""

GPUS = "lazy:0", "lazy:1"
"""Two devices for fake tensors. torch without CUDA cannot index a tensor that claims to be on a
GPU, but one on this kind of device, which is not there either."""


def placed(language: PreTrainedModel, devices: list[str], inputs: str, rest: str) -> dict[str, str]:
    """A device map that names every module.

    Args:
        language: a whole model.
        devices: of the decoder's layers, over and over.
        inputs: the device of embeddings, and of an output head that is the same.
        rest: the device of all other modules.
    """
    places, first = {}, language.get_input_embeddings().weight
    for name, tensor in [
        *language.named_parameters(remove_duplicate=False),
        *language.named_buffers(),
    ]:
        layer = LAYER.match(name)
        if layer:
            places[layer[0]] = devices[int(layer[1]) % len(devices)]
        else:
            places[name.rpartition(".")[0]] = inputs if tensor is first else rest
    return places


def llama(language: LlamaForCausalLM) -> DecoderModel:
    """A model on a Llama, of which all but the Llama is always the same."""
    draws = torch.Generator().manual_seed(0)
    tokens = 10 + torch.arange(CODES)
    language.set_attn_implementation("sdpa")
    return DecoderModel(
        name="tiny",
        backbone=language.model,
        grid=Grid(4, 5, row_end=44),
        tokens=tokens,
        head=code_head(language.lm_head, tokens),
        prompt=lambda text, conditional: [45, *([3] if conditional else []), 46],
        pixels=Tiles(),
        codebook=nn.functional.normalize(torch.randn(CODES, 3, generator=draws), dim=-1),
        sampling={},
    )


def family(name: str) -> tuple[PreTrainedModel, Callable[[], Wrapped], torch.Tensor]:
    """A model of transformers, what wraps it again, and tokens of its prompt."""
    if name == "chameleon":
        model, language = tiny_chameleon(LUMINA)
        tokens, module = model.prompt("cat", True), chameleon
    else:
        tests, module = {"emu3": (test_emu3, emu3), "janus": (test_janus, janus)}[name]
        language, tokens = tests.tiny(), tests.prompt("a red fox", True)
    return language, lambda: module.wrap(language, [tokens], None), torch.tensor([tokens])


# --- Offloaded to a disk, for real ---


def test_every_method_draws_what_the_whole_model_draws(tmp_path, monkeypatch):
    def fastest(cache, *_):
        # Kernels are timed on one device.
        assert cache is None or isinstance(cache, SlotCache)
        return sdpa

    monkeypatch.setattr(transformers_decoder, "fastest", fastest)
    whole, offloaded = (tiny_llama(False)[1] for _ in range(2))
    places = placed(offloaded, ["disk", "cpu"], "cpu", "disk")
    dispatch_model(offloaded, places, offload_dir=tmp_path, skip_keys="past_key_values")
    assert offloaded.lm_head.weight.is_meta and offloaded.model.layers[0].mlp.up_proj.weight.is_meta
    whole, offloaded = llama(whole), llama(offloaded)
    assert offloaded.device.type == "cpu" and not offloaded.capturable
    for method in PRESETS:
        options = {"context": 2} if method in BY_ROWS else {}
        if method in BY_ROWS and not PRESETS[method].one_at_a_time:
            options["window"] = 4
        for sampling in ({"temperature": 0}, {"seed": 3}):
            codes, expected = (
                generate(model, ["cat"], method, **options, **sampling).tokens
                for model in (offloaded, whole)
            )
            assert torch.equal(codes, expected), (method, sampling)


@pytest.mark.parametrize("name", ["chameleon", "emu3", "janus"])
def test_from_pretrained_with_a_device_map(name, tmp_path):
    whole, _, ids = family(name)
    whole.save_pretrained(tmp_path)
    places = placed(whole, ["cpu", "disk"], "disk", "disk")
    offloaded = type(whole).from_pretrained(
        tmp_path, device_map=places, offload_folder=tmp_path / "offloaded"
    )
    assert set(offloaded.hf_device_map.values()) == {"cpu", "disk"}
    offloaded.generation_config = whole.generation_config
    offloaded.train()
    before = dict(offloaded.named_parameters())
    needed = [parameter.requires_grad for parameter in before.values()]
    given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 64}
    for sampling in ({"do_sample": False}, {"do_sample": True, "top_k": 5}):
        door = pjd.decoding("pjd", context=2, seed=4)
        expected = whole.generate(ids, custom_generate=door, **given, **sampling)
        codes = offloaded.generate(ids, custom_generate=door, **given, **sampling)
        assert torch.equal(codes, expected)
    # The model is left as it was: its very parameters, and what they were.
    after = dict(offloaded.named_parameters())
    assert all(after[one] is before[one] for one in before) and offloaded.training
    assert [parameter.requires_grad for parameter in after.values()] == needed and any(needed)
    assert not any(module._forward_pre_hooks for module in offloaded.modules())


# --- On several devices, as fakes ---


def move(module: nn.Module, name: str, device: str, value: None = None, **_: object) -> None:
    """Move a parameter or buffer that is a fake."""
    owner, last = module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
    moved = getattr(owner, last).detach().to(device)
    parameter = last in owner._parameters
    setattr(owner, last, nn.Parameter(moved, requires_grad=False) if parameter else moved)


def move_all(module: nn.Module, device: str) -> None:
    """Move a module of fakes."""
    for name in [*dict(module.named_parameters()), *dict(module.named_buffers())]:
        move(module, name, device)


@contextmanager
def fakes(language: PreTrainedModel, places: dict[str, str]) -> Iterator[None]:
    """Within, a model is placed on devices, and tensors are fakes: a device without content.

    The hooks are accelerate's. Only what moves a parameter is ours: torch and accelerate swap it
    for another in ways that no fake can take part in.
    """
    with FakeTensorMode() as mode, torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerate.hooks, "set_module_tensor_to_device", move)
        patch.setattr(nn.Module, "to", move_all)
        for module in language.modules():
            for name, parameter in [*module.named_parameters(recurse=False)]:
                setattr(module, name, mode.from_tensor(parameter))
            for name, buffer in [*module.named_buffers(recurse=False)]:
                setattr(module, name, mode.from_tensor(buffer))
        dispatch_model(language, places, skip_keys=language._skip_keys_device_placement)
        yield


class OneDevice(TorchDispatchMode):
    """Refuses operations on two devices, which fakes let pass for indices; notes what moves.

    Attributes:
        moves: of each tensor that went from one device to another: its shape and both.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moves: list[tuple[tuple[int, ...], str, str]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        devices = {str(one.device) for one in given if one.ndim}
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default:
            source, target = str(given[0].device), str(out.device)
            if source != target:
                self.moves.append((tuple(out.shape), source, target))
        else:
            assert len(devices) <= 1, f"{func}: {sorted(devices)}"
        return out


def iterate(engine: Engine, iterations: int = 2) -> list[tuple[tuple[int, ...], str, str]]:
    """Run the prefill and some iterations; returns the moves of the last one."""
    with OneDevice():
        state, trace = engine.initial_state(), engine.empty_trace()
        engine.prefill()
        for _ in range(iterations):
            with OneDevice() as watched:
                engine.step(state, trace)
    assert str(state.tokens.device) == GPUS[0]
    return watched.moves


def devices_of_keys(engine: Engine) -> list[str]:
    """The device of each layer's keys."""
    layers = range(engine.model.backbone.config.num_hidden_layers)
    return [str(engine.cache.layer(index).keys.device) for index in layers]


@pytest.mark.parametrize(
    ("name", "method"), [("chameleon", "pjd"), ("emu3", "pjd-plus"), ("janus", "gsd")]
)
def test_no_operation_of_an_iteration_is_on_two_devices(name, method):
    language, wrap, _ = family(name)
    with fakes(language, placed(language, [*GPUS], *GPUS)):
        wrapped = wrap()
        model, config = wrapped.model, configure(method, guidance=2.0)
        engine = Engine(model, config, wrapped.encode(True), torch.arange(1), static=True)
        iterate(engine)
        assert devices_of_keys(engine) == [*GPUS]
        # Finished images are dropped on both.
        kept = torch.zeros(1, dtype=torch.long, device=GPUS[0])
        with OneDevice():
            engine.select(engine.initial_state(), kept)
        assert devices_of_keys(engine) == [*GPUS]


def test_each_device_gets_each_input_once():
    moves = {}
    for each in (1, 3):
        order = [device for device in (*GPUS, "lazy:2") for _ in range(each)]
        language = LlamaForCausalLM(LlamaConfig(**{**BASE, "num_hidden_layers": len(order)}))
        with fakes(language, placed(language, order, *GPUS)):
            model = llama(language)
            prompt = model.encode(["cat", "dog"], True)
            config = configure("pjd", guidance=2.0)
            engine = Engine(model, config, prompt, torch.arange(2), static=True)
            moves[each] = iterate(engine)
            assert devices_of_keys(engine) == order
    # To each of two other devices: slots, mask, position ids. The rotation, which is on the second
    # device, is given embeddings and position ids, and its two factors go to two devices. Hidden
    # states go to the second device, the third, the second with the last norm, and the first.
    assert len(moves[1]) == 2 * 3 + 2 + 2 * 2 + 4 and moves[3] == moves[1]


def test_tokens_return_to_the_device_of_the_prompt(monkeypatch):
    language, _, ids = family("chameleon")
    asked = []

    class Elsewhere:
        def to(self, device: torch.device) -> torch.Tensor:
            asked.append(device)
            return ids

    monkeypatch.setattr("pjd.custom_generate.decode_all", lambda *_: Elsewhere())
    language.generate(ids, custom_generate=pjd.decoding())
    assert asked == [ids.device]


# --- What cannot be ---


def test_a_layer_on_two_devices_is_refused():
    language = tiny_llama(False)[1]
    places = placed(language, [*GPUS], *GPUS)
    del places["model.layers.1"]
    for name, _ in language.model.layers[1].named_children():
        places[f"model.layers.1.{name}"] = GPUS[name == "mlp"]
    message = r"devices of layers\.1 of tiny = 'lazy:0, lazy:1': must be one device"
    with fakes(language, places), pytest.raises(pjd.ParameterError, match=message):
        llama(language)


def test_a_model_that_is_placed_stays_there_and_is_not_compiled(tmp_path):
    language = tiny_llama(False)[1]
    places = placed(language, ["disk", "cpu"], "cpu", "cpu")
    dispatch_model(language, places, offload_dir=tmp_path)
    model = llama(language)
    with pytest.raises(pjd.ParameterError, match="device = 'meta': must be cpu: device_map has"):
        model.to("meta")
    assert model.to("cpu") is model and model.device.type == "cpu"
    with pytest.raises(NotImplementedError, match=r"tiny: placed by device_map, not compiled: "):
        compile_model(model)
    language.model.layers[1].mlp.to("meta")
    message = r"device of weight of layers\.1 of tiny = 'meta': must be a device, or offloaded"
    with pytest.raises(pjd.ParameterError, match=message):
        llama(language)


@pytest.mark.parametrize("capturable", [True, False])
def test_iterations_are_captured_on_one_gpu_alone(capturable, monkeypatch):
    monkeypatch.setattr(engines, "cuda_recorder", lambda: "recorder")
    model = tiny_llama(False)[0]
    prompt = model.encode(["cat"], False)
    with FakeTensorMode():
        model.device, model.capturable = torch.device("cuda:0"), capturable
        engine = Engine(model, configure("ar"), prompt, torch.zeros(1, dtype=torch.long))
    assert engine.recorder == ("recorder" if capturable else None)
