"""Count what an iteration asks a device to do, without a device: operations, and kernels."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch._inductor.utils import run_and_get_code
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.options import names
from pjd.decoder.config import DecodeConfig
from pjd.decoder.engine import Engine
from pjd.decoder.methods import PRESETS, configure
from pjd.decoder.state import State
from pjd.decoder.trace import Trace
from pjd.measure.replay import random_llamagen
from pjd.models.emoji import EmojiModel
from pjd.models.llamagen import LlamaGenConfig, rotary_factors
from pjd.pipeline.files import write_json
from pjd.pipeline.runs import provenance

LANES = 6
"""Rows that are computed: as many as PJD has in flight in the middle of a 32 x 32 image."""

LIBRARY = re.compile(r"\b(?:extern_kernels|torch\.ops\.aten|aten)\.[\w.]+\(")
"""A call of a library's kernel in code that Inductor generates."""

FUNCTION = re.compile(r"^\w+ = async_compile\.\w+\(.*?^'''\)$", re.DOTALL | re.MULTILINE)
"""A C++ function in code that Inductor generates."""

LOOP = "for(int64_t x0="
"""How an outermost loop begins in such a function; loops over one element are left out of it."""


class Operations(TorchDispatchMode):
    """Counts ATen operations that compute: views, which only describe memory, are left out.

    Attributes:
        counts: operations by part, then by name.
        part: what the next ones belong to.
    """

    def __init__(self) -> None:
        """Start at zero, in the engine's own part."""
        super().__init__()
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.part = "own"

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Count ``func``, and run it."""
        if not is_view(func):
            self.counts[self.part][str(func)] += 1
        return func(*args, **(kwargs or {}))

    def total(self, part: str) -> int:
        """Operations of a part."""
        return sum(self.counts[part].values())


def is_view(func: Any) -> bool:
    """Whether the operation ``func`` only gives another view of its argument."""
    returns = func._schema.returns
    aliases = [one.alias_info is not None and not one.alias_info.is_write for one in returns]
    return bool(returns) and all(aliases)


def in_the_middle(model: EmojiModel, config: DecodeConfig) -> tuple[Engine, State, Trace]:
    """An engine with sizes as on a GPU, and what it has after some iterations of one image."""
    engine = Engine(model, config, model.encode(["cat"], config.guided), torch.arange(1), True)
    engine.shapes.bound = min(LANES, engine.slots.n_lanes)
    state, trace = engine.initial_state(), engine.empty_trace()
    engine.prefill()
    for _ in range(model.grid.columns):
        engine.step(state, trace)
    return engine, state, trace


@torch.inference_mode()
def operations_of(engine: Engine, state: State, trace: Trace) -> Operations:
    """Operations of one iteration, by part: the engine's "own", and the "model"."""
    with Operations() as counted:
        fed = engine.feed(state)
        counted.part = "model"
        logits = engine.forward(fed.inputs)
        counted.part = "own"
        engine.judge(state, trace, fed, logits)
    return counted


def kernels(code: str) -> int:
    """Kernels in ``code`` that Inductor generated for a CPU: loop nests, and calls of libraries.

    One C++ function may have several loop nests, one after the other. A GPU would be given as many
    kernels, so each of them counts.
    """
    nests = [max(1, function.count(LOOP)) for function in FUNCTION.findall(code)]
    return sum(nests) + len(LIBRARY.findall(code.partition("def call(")[2]))


def compiled_kernels(function: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    """Kernels that Inductor makes of ``function`` on a CPU; and what the function returns."""
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=False)
    result, codes = run_and_get_code(compiled, *arguments)
    return sum(map(kernels, codes)), result


def tiny(layers: int) -> EmojiModel:
    """A random LlamaGen of 16 x 16 codes."""
    sizes = LlamaGenConfig(64, layers, 2, 64, 16, prefix=8, caption_dim=32)
    return random_llamagen(sizes, "cpu", torch.float32)


@torch.inference_mode()
def counts(config: DecodeConfig) -> dict[str, int]:
    """What one iteration asks a device to do: of the engine's own parts, and of a block.

    Sizes make no difference to the numbers, so the model is a tiny LlamaGen.

    Args:
        config: the method.

    Returns:
        own and block: operations that are launched one by one; own_compiled and block_compiled:
        kernels after compiling.
    """
    layers = {}
    for number in (1, 2):
        engine, state, trace = in_the_middle(tiny(number), config)
        launched = operations_of(engine, state, trace)
        layers[number] = launched.total("model")
    feeding, fed = compiled_kernels(engine.feed, state)
    logits = engine.forward(fed.inputs)
    judging, _ = compiled_kernels(engine.judge, state, trace, fed, logits)
    transformer, inputs = engine.model.transformer, fed.inputs
    cache = engine.cache.at(inputs.slots, inputs.used).layer(0)
    rotation = rotary_factors(transformer.rotary[inputs.positions])
    block, _ = compiled_kernels(
        transformer.block, transformer.layers[0], inputs.x, rotation, inputs.mask, cache
    )
    return {
        "own": launched.total("own"),
        "own_compiled": feeding + judging,
        "block": layers[2] - layers[1],
        "block_compiled": block,
    }


def operations(
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON to write.")],
    methods: Annotated[str, typer.Option(help="Methods.")] = "ar,sjd,mc-sjd,pjd,pjd-plus",
) -> None:
    """Count what an iteration asks a device to do, without a device (docs/performance.md)."""
    counted = {}
    for method in names(methods, "methods", list(PRESETS)):
        context = {"context": 4} if PRESETS[method].by_rows else {}
        config = configure(method, guidance=2.5, top_k=16, **context)
        counted[method] = counts(config)
        print(method, counted[method], flush=True)
        write_json(output, provenance(methods=counted))
