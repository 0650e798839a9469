"""The networks that published numbers are on: Inception for FID, KID and IS, and a CLIP.

Their weights do not come with the package; docs/quality.md says where they are from.
"""

import warnings
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pjd.errors import ParameterError


@torch.inference_mode()
def inception(
    images: Tensor, weights: Path, output: Literal["2048", "logits_unbiased"], batch_size: int = 32
) -> Tensor:
    """Inception's outputs, from which published FID and KID, or IS, are computed.

    Args:
        images: uint8 [images, H, W, 3].
        weights: torch-fidelity's file of Inception's weights, ``weights-inception-2015-12-05``.
        output: which layer: "2048" for FID and KID, "logits_unbiased" for IS.
        batch_size: images per forward pass.

    Returns:
        Float [images, 2048] or [images, 1008].

    Raises:
        FileNotFoundError: if there is no such file.
        ParameterError: if torch-fidelity is not installed.
    """
    if not weights.exists():
        raise FileNotFoundError(f"no {weights}: FID as published needs Inception's weights there")
    from torchmetrics.image.fid import NoTrainInceptionV3

    try:
        extractor = NoTrainInceptionV3("inception-v3-compat", [output], str(weights))
    except ModuleNotFoundError as error:
        raise ParameterError(
            "inception", str(weights), "needs pip install torch-fidelity torchvision"
        ) from error
    parts = images.permute(0, 3, 1, 2).split(batch_size)
    return torch.cat([extractor(part) for part in parts])


@torch.inference_mode()
def clip_score(images: Tensor, prompts: list[str], folder: Path, batch_size: int = 32) -> float:
    """Mean CLIP score (100 times the cosine of image and prompt, at least 0), by torchmetrics.

    A prompt that is longer than CLIP's text is cut, as CLIP does it: its end token, from which CLIP
    reads the features, stays. Warns about how many were cut.

    Args:
        images: uint8 [images, H, W, 3].
        prompts: one per image.
        folder: of a CLIP in transformers' format, such as ``openai/clip-vit-base-patch16``.
        batch_size: images per forward pass.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    from torchmetrics.multimodal.clip_score import CLIPScore
    from transformers import CLIPModel, CLIPProcessor

    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"no {folder / 'config.json'}: the CLIP score needs a CLIP there")

    def local() -> tuple[Any, Any]:
        """The model and its processor, as torchmetrics asks for them."""
        model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
        for part in ("get_image_features", "get_text_features"):
            setattr(model, part, pooled(getattr(model, part)))
        processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        length = model.config.text_config.max_position_embeddings
        lengths = [len(ids) for ids in processor.tokenizer(prompts).input_ids]
        cut = sum(count > length for count in lengths)
        if cut:
            said = f"{cut} of {len(prompts)} prompts have more than CLIP's {length} tokens: cut"
            warnings.warn(said, stacklevel=2)
        return model, partial(processor, truncation=True, max_length=length)

    metric = CLIPScore(model_name_or_path=local)
    channels_first = images.permute(0, 3, 1, 2)
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        metric.update(list(channels_first[part]), prompts[part])
    return float(metric.compute())


def pooled(call: Any) -> Any:
    """Make a method of CLIP in transformers 5 return features, as torchmetrics expects."""

    def features(*arguments: Any, **named: Any) -> Tensor:
        output = call(*arguments, **named)
        return getattr(output, "pooler_output", output)

    return features
