"""What the weights of a model may be rounded to: checked before torch is imported."""

from importlib.util import find_spec

from pjd.errors import ParameterError, check_choice

QUANTIZED = ("int8",)
"""See :mod:`pjd.models.quantize`."""


def check_quantize(quantize: str | None, dtype: str) -> None:
    """Check what the weights are rounded to, before anything is loaded.

    Args:
        quantize: one of :data:`QUANTIZED`; None: they stay as they are.
        dtype: of the arithmetic.

    Raises:
        ParameterError: if it is neither, if torchao is missing, or beside float16, whose largest
            number products with unscaled integers may exceed.
    """
    if quantize is None:
        return
    check_choice("quantize", quantize, QUANTIZED)
    if find_spec("torchao") is None:
        raise ParameterError("quantize", quantize, "needs torchao: pip install 'pjd[int8]'")
    if dtype == "float16":
        allowed = "must be bfloat16 or float32 beside quantize: sums could exceed its range"
        raise ParameterError("dtype", dtype, allowed)
