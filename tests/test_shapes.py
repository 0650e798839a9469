"""How much is computed changes no token, and with static sizes nothing is read from the device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pjd.decoder.methods import PRESETS, configure
from tests.decoding import BY_ROWS, PROMPTS, decode_ten, engine_of
from tests.tiny import tiny_model


@pytest.mark.parametrize("method", [*BY_ROWS, "ar", "sjd", "mc-sjd", "jacobi"])
def test_static_sizes_as_on_a_gpu_change_no_token(method):
    model = tiny_model(grid=8, vocabulary=9)
    (packed, _), (static, sizes) = (decode_ten(model, method, static) for static in (False, True))
    assert torch.equal(packed, static)
    # Few sizes occur, for each of them is a graph to capture.
    assert len(sizes) <= 4


class Dtypes(TorchDispatchMode):
    """Remembers the dtypes of all tensors that an operation returns."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        returned = function(*arguments, **(options or {}))
        tensors = [value for value in tree_leaves(returned) if isinstance(value, torch.Tensor)]
        self.seen |= {tensor.dtype for tensor in tensors}
        return returned


@pytest.mark.parametrize("method", sorted(PRESETS))
def test_decoding_needs_no_double_precision_which_apples_gpus_lack(method):
    model = tiny_model(grid=4)
    config = configure(method, columns=4, guidance=2.0, top_k=5, top_p=0.9, min_p=0.01)
    with Dtypes() as dtypes:
        engine_of(model, config, PROMPTS, torch.arange(len(PROMPTS)), static=True).run()
    assert torch.float32 in dtypes.seen and torch.int64 in dtypes.seen
    assert not dtypes.seen & {torch.float64, torch.complex128}


@pytest.mark.parametrize("method", sorted(PRESETS))
def test_a_step_is_one_graph_and_changes_no_token(method):
    # The host reads nothing, and no shape depends on what was drawn.
    model = tiny_model(grid=6, vocabulary=11)
    config = configure(method, guidance=2.0, **({"context": 2} if method in BY_ROWS else {}))
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def steps(compiled: bool) -> torch.Tensor:
        engine = engine_of(model, config, PROMPTS[:2], torch.arange(2), static=True)
        engine.shapes.bound = min(4, engine.slots.n_lanes)
        state, trace = engine.initial_state(), engine.empty_trace()
        engine.prefill()
        step = engine.step
        if compiled:
            step = torch.compile(step, fullgraph=True, dynamic=False, backend=backend)
        for _ in range(8):
            step(state, trace)
        return state.tokens

    torch._dynamo.reset()
    with torch.inference_mode():
        assert torch.equal(steps(compiled=True), steps(compiled=False))
    # There is a second graph where an update in place makes two names share their memory.
    assert 1 <= len(graphs) <= 2
