"""Attention of a transformers decoder by the kernel that is fastest for few queries."""

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pjd.models.attention import Attend, sdpa

FEW_QUERIES = "pjd_few_queries"
"""The name by which transformers finds :func:`few_queries`, for ``set_attn_implementation``."""


def few_queries(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    attend: Attend = sdpa,
    **options: Any,
) -> tuple[Tensor, None]:
    """The implementation "sdpa" of transformers, unless another kernel is asked for.

    Args:
        module: the attention.
        query: [batch, heads, length, head_dim].
        key: [batch, key-value heads, keys, head_dim].
        value: shaped as the keys.
        attention_mask: [batch, 1, length, keys], what is added to the scores, if another kernel
            is asked for.
        scaling: what scores are multiplied with. The kernels know the usual one alone.
        attend: the kernel.
        options: of transformers.

    Returns:
        [batch, length, heads, head_dim], and no weights.
    """
    usual = scaling is None or scaling == query.shape[-1] ** -0.5
    if attend is sdpa or attention_mask is None or not usual:
        options["scaling"] = scaling
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return attend(query, key, value, attention_mask).transpose(1, 2).contiguous(), None


AttentionInterface.register(FEW_QUERIES, few_queries)
AttentionMaskInterface.register(FEW_QUERIES, sdpa_mask)
