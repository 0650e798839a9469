"""Image decoders: the bytes that they need at once, and what arithmetic in 16 bits does to pixels.

Bytes are counted on "meta", where nothing is computed, so that official sizes cost nothing. Pixels
are computed, with random weights at official sizes, and with the embedded tokenizer's trained ones.
"""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from transformers import ChameleonConfig, Emu3Config, JanusConfig
from transformers.models.emu3.modeling_emu3 import Emu3VQVAE
from transformers.models.janus.modeling_janus import JanusVQVAE

from benchmarks.peak import Peak
from pjd.models import emu3, janus
from pjd.models.chameleon_vq import ChameleonVQ
from pjd.models.llamagen_vq import LlamaGenVQ
from pjd.models.movq import MOVQ_270M, MoVQ
from pjd.models.registry import load
from pjd.paths import RUNS
from pjd.pipeline.files import read_run, write_json
from pjd.pipeline.runs import column_tensor, provenance

RESULTS = Path(__file__).parent / "results" / "decoders.json"


def without_encoder(vq: Any) -> Any:
    """A VQ model of transformers without the parts that read images."""
    del vq.encoder, vq.quant_conv
    return vq


MAKE: dict[str, Callable[[], nn.Module]] = {
    "Chameleon's VQGAN": lambda: ChameleonVQ(ChameleonConfig().vq_config),
    "MoVQGAN": lambda: MoVQ(MOVQ_270M),
    "LlamaGen's VQ-16": lambda: LlamaGenVQ(5),
    "Janus-Pro's": lambda: janus.Pixels(without_encoder(JanusVQVAE(JanusConfig().vq_config))),
    "Emu3's": lambda: emu3.Pixels(
        without_encoder(Emu3VQVAE(Emu3Config().vq_config)), [0.5] * 3, [0.5] * 3
    ),
}
"""Image decoders of official sizes."""

SIDES = (
    ("Chameleon's VQGAN", 32, 16),
    ("Chameleon's VQGAN", 48, 16),
    ("Chameleon's VQGAN", 64, 16),
    ("MoVQGAN", 96, 8),
    ("LlamaGen's VQ-16", 24, 16),
    ("LlamaGen's VQ-16", 32, 16),
    ("Janus-Pro's", 24, 16),
    ("Emu3's", 90, 8),
)
"""Decoder, rows and columns of codes, and pixels per side of a code of official images."""


def peak(make: Callable[[], nn.Module], side: int, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes of a decoder's weights, and of all other tensors that exist at once, at most.

    Args:
        make: the decoder.
        side: rows and columns of codes.
        dtype: of the arithmetic.
    """
    with torch.device("meta"):
        decoder = make().to(dtype).eval().requires_grad_(False)
        codes = torch.zeros(1, side, side, dtype=torch.long)
    with torch.no_grad(), Peak() as counted:
        decoder(codes)
    return sum(weight.nbytes for weight in decoder.parameters()), counted.most


def rounding(vq: Any, pixels: Callable[[Any], Tensor]) -> dict[str, dict[str, float]]:
    """What 16 bits do to pixels, by dtype.

    Args:
        vq: has the network as ``decoder``; what that makes becomes bytes in single precision.
        pixels: from ``vq`` in any dtype to pixels uint8 of the same codes.

    Returns:
        In levels of 255, the largest and the mean difference; and the share that differ at all.
    """
    vq.decoder.register_forward_hook(lambda _, inputs, images: images.float())
    exact, found = pixels(vq).int(), {}
    for dtype in (torch.bfloat16, torch.float16):
        apart = (pixels(deepcopy(vq).to(dtype)).int() - exact).abs()
        found[str(dtype).removeprefix("torch.")] = {
            "largest": float(apart.max()),
            "mean": round(float(apart.double().mean()), 4),
            "share": round(float((apart > 0).double().mean()), 4),
        }
    return found


@torch.no_grad()
def random_weights(make: Callable[[], nn.Module], side: int) -> dict[str, dict[str, float]]:
    """:func:`rounding` of a decoder with random weights, on random codes [1, side, side]."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder: Any = make().eval().requires_grad_(False)
        codes = torch.randint(decoder.quantize.embedding.num_embeddings, (1, side, side))
    return rounding(decoder, lambda vq: vq(codes))


@torch.no_grad()
def trained(model: str, images: int) -> dict[str, dict[str, float]]:
    """:func:`rounding` of an embedded model's tokenizer, on the first images of its AR run."""
    loaded: Any = load(model)
    rows = read_run(RUNS / f"{model}-ar").images[:images]
    codes = column_tensor(rows.tokens).unflatten(1, (loaded.grid.rows, loaded.grid.columns))
    return rounding(loaded.tokenizer, lambda vq: vq.decode(codes))


def decoders(
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON to write.")] = RESULTS,
    model: Annotated[str, typer.Option(help="An embedded model.")] = "emoji-128",
    images: Annotated[int, typer.Option(help="Images of the embedded model.")] = 32,
    side: Annotated[int, typer.Option(help="Rows and columns of random codes.")] = 12,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Count what image decoders need, and what 16 bits do to pixels (docs/performance.md)."""
    torch.set_num_threads(threads)
    sizes = []
    for name, codes, reduction in SIDES:
        found: dict[str, Any] = {"decoder": name, "pixels": codes * reduction}
        for dtype in (torch.float32, torch.bfloat16):
            weights, most = peak(MAKE[name], codes, dtype)
            found[str(dtype).removeprefix("torch.")] = {"weights": weights, "peak": most}
        sizes.append(found)
        print(found, flush=True)
    pixels = {f"{model}, trained": trained(model, images)}
    for name in ("Chameleon's VQGAN", "MoVQGAN"):
        pixels[f"{name}, random weights"] = random_weights(MAKE[name], side)
    print(pixels)
    write_json(output, {**provenance(model=model, images=images), "sizes": sizes, "pixels": pixels})
