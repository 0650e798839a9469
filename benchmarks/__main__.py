"""``python -m benchmarks``: measure, and record what was measured in ``benchmarks/results``."""

import typer

from benchmarks.acceptance import acceptance
from benchmarks.batches import batches
from benchmarks.decoders import decoders
from benchmarks.exact import exact
from benchmarks.excess import excess
from benchmarks.gpu import gpu
from benchmarks.operations import operations
from benchmarks.preview import preview
from benchmarks.quantized import quantized
from benchmarks.released import released
from benchmarks.run import run
from benchmarks.settings import settings
from pjd.errors import ParameterError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.command()(exact)
app.command()(preview)
app.command()(quantized)
app.command()(decoders)
app.command()(batches)
app.command()(excess)
app.command()(acceptance)
app.command()(run)
app.command()(settings)
app.command()(released)
app.command()(gpu)
app.command()(operations)

if __name__ == "__main__":
    try:
        app(standalone_mode=True)
    except ParameterError as error:
        raise SystemExit(str(error)) from error
