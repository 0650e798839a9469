"""An iteration as one graph: recorded once, then replayed by one call of the host.

On a GPU the host takes far longer to launch the kernels of an iteration one by one than the GPU to
run them. A recorded graph is launched at once. It repeats the same kernels on the
same memory, so all that an iteration changes must be written in place, and nothing that the host
read or chose may differ between iterations.
"""

import warnings
from collections.abc import Callable, Hashable

import torch

from pjd.errors import one_line

Recorder = Callable[[Callable[[], None]], Callable[[], None]]
"""Records what a function does, without doing it, and returns what does it again."""


def cuda_recorder() -> Recorder:
    """Records CUDA graphs that share one pool of memory: no two of them run at once."""
    pool = torch.cuda.graph_pool_handle()

    def record(function: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            function()
        return graph.replay

    return record


class Captured:
    """Runs iterations, as graphs once there are some.

    Args:
        recorder: records them; None: each runs as it is, as on a CPU.
    """

    def __init__(self, recorder: Recorder | None) -> None:
        """Begin without graphs."""
        self.recorder = recorder
        self.seen: set[Hashable] = set()
        self.graphs: dict[Hashable, Callable[[], None]] = {}

    def run(self, key: Hashable, function: Callable[[], None]) -> None:
        """Run ``function`` once.

        Args:
            key: stands for everything that the host chooses in it. The first time with a key it
                runs as it is, for libraries get ready in their first call; then it is recorded.
            function: it must return nothing, and write where it wrote before.
        """
        if key in self.graphs:
            self.graphs[key]()
            return
        if self.recorder is not None and key in self.seen:
            try:
                self.graphs[key] = self.recorder(function)
            except RuntimeError as error:
                # Nothing has been computed yet, so nothing is lost.
                reason = one_line(error, 200)
                warnings.warn(
                    f"iterations are not captured, which is slower: {reason}", stacklevel=2
                )
                self.recorder = None
            else:
                self.graphs[key]()
                return
        self.seen.add(key)
        function()

    def forget(self) -> None:
        """Drop all graphs: what they read and write is elsewhere now."""
        self.seen.clear()
        self.graphs.clear()
