"""What the weights of a model may be rounded to: checked before torch is imported."""

from importlib.metadata import PackageNotFoundError, version

from pjd.errors import ParameterError, check_choice

TORCHAO = "0.18"
"""The version that the extra ``int8`` asks for: another may have another configuration."""

QUANTIZED = ("int8",)
"""See :mod:`pjd.models.quantize`."""


def check_quantize(quantize: str | None, dtype: str) -> None:
    """Check what the weights are rounded to, before anything is loaded.

    Args:
        quantize: one of :data:`QUANTIZED`; None: they stay as they are.
        dtype: of the arithmetic.

    Raises:
        ParameterError: if it is neither, if torchao is missing or of another version, or beside
            float16, whose largest number products with unscaled integers may exceed.
    """
    if quantize is None:
        return
    check_choice("quantize", quantize, QUANTIZED)
    try:
        found = version("torchao")
    except PackageNotFoundError:
        found = "none"
    if not found.startswith(f"{TORCHAO}."):
        allowed = f"needs torchao {TORCHAO}, found {found}: pip install 'pjd[int8]'"
        raise ParameterError("quantize", quantize, allowed)
    if dtype == "float16":
        allowed = "must be bfloat16 or float32 beside quantize: sums could exceed its range"
        raise ParameterError("dtype", dtype, allowed)
