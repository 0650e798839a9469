"""What a model needs, in bytes, from its sizes alone: nothing is loaded, and torch is not imported.

Counted are the matrices of the transformer, the cache of one image, and the image decoder. Not
counted are vectors (normalisations, biases), what a forward pass works with, and what a GPU's own
libraries take. The cache is freed before the image decoder runs, so the sum of the parts leaves
room for these.
"""

from dataclasses import dataclass
from typing import NamedTuple

from pjd.models.catalogue import CATALOGUE

GIB = 2**30

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number, by dtype."""


class ImageDecoder(NamedTuple):
    """The sizes of an image decoder, which computes in single precision.

    Attributes:
        numbers: of its weights, without what reads images.
        per_pixel: bytes of all tensors that exist at once, at most, per pixel of the image.
        reduction: pixels per side of a code.
    """

    numbers: float
    per_pixel: int
    reduction: int


CHAMELEON_VQ = ImageDecoder(41.46e6, 1544, 16)
LLAMAGEN_VQ = ImageDecoder(42.58e6, 2052, 16)
JANUS_VQ = ImageDecoder(42.58e6, 1540, 16)
MOVQ = ImageDecoder(161.2e6, 5121, 8)
EMU3_VQ = ImageDecoder(161.2e6, 10_516, 8)
"""tests/test_memory.py counts them."""

COSMOS = ImageDecoder(60e6, 2000, 16)
"""Assumed: its file is a program, whose sizes we have not seen."""

NONE = ImageDecoder(0, 0, 1)
"""Of a model whose codes are colours, or that makes no pixels."""

T5_ENCODER = 1.224e9
"""Numbers of flan-t5-xl's encoder."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a transformer.

    Attributes:
        layers: its blocks.
        width: of the residual stream.
        feed_forward: inner width of the feed-forward part.
        heads: of queries.
        keys: heads of keys and of values.
        tokens: rows of the tables of input embeddings.
        codes: rows of the part of the output head that gives logits of codes.
        decoder: the image decoder.
        prompt: positions before the first code, in the cache; those of another grid too.
        head_width: numbers of a head; 0: the width, shared out to the heads of queries.
        matrices: of the feed-forward part, 3 with a gate.
        row_ends: whether a token ends every row.
        others: numbers of other matrices, such as a text encoder.
    """

    layers: int
    width: int
    feed_forward: int
    heads: int
    keys: int
    tokens: int
    codes: int
    decoder: ImageDecoder
    prompt: int = 100
    head_width: int = 0
    matrices: int = 3
    row_ends: bool = False
    others: float = 0

    @property
    def per_head(self) -> int:
        """Numbers of a head."""
        return self.head_width or self.width // self.heads

    @property
    def block(self) -> tuple[int, int]:
        """Numbers of the matrices of one block, and their outputs, in all."""
        queries, keys = self.heads * self.per_head, self.keys * self.per_head
        attention = self.width * (2 * queries + 2 * keys)
        numbers = attention + self.matrices * self.width * self.feed_forward
        outputs = queries + 2 * keys + (self.matrices - 1) * self.feed_forward + 2 * self.width
        return numbers, outputs

    def weights(self, dtype: str, quantize: str | None = None) -> float:
        """Bytes of the matrices.

        Args:
            dtype: of the arithmetic, a key of :data:`BYTES`.
            quantize: "int8": those of the blocks have one byte per number and, per output, a factor
                of 4 bytes and a byte that says where 0 is.
        """
        size = BYTES[dtype]
        numbers, outputs = self.block
        block = numbers * size if quantize is None else numbers + 5 * outputs
        others = self.width * (self.tokens + self.codes) + self.others
        return self.layers * block + size * others

    def cache(self, image: int, branches: int, dtype: str) -> float:
        """Bytes of the keys and values of one image.

        Args:
            image: its tokens, ends of rows included.
            branches: 2 with guidance.
            dtype: of the arithmetic.
        """
        slots = self.prompt + image
        return 2 * self.layers * self.keys * self.per_head * slots * branches * BYTES[dtype]


class Needs(NamedTuple):
    """What a model needs to decode one image at a time, in GiB.

    Attributes:
        weights: of the transformer, and of a text encoder if it has one.
        cache: with guidance where the model has it.
        decoder: of images, its weights and its tensors.
    """

    weights: float
    cache: float
    decoder: float

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return sum(self)

    def __str__(self) -> str:
        """The sum, and the parts, in a few words."""
        parts = f"weights {self.weights:.1f}, cache {self.cache:.1f}"
        if self.decoder:
            parts += f", image decoder {self.decoder:.1f}"
        return f"{self.total:.1f} GiB ({parts})"


def needs(name: str, quantize: str | None = None) -> Needs:
    """What an official checkpoint needs in its own dtype, computed from sizes.

    Args:
        name: a key of :data:`pjd.models.catalogue.CATALOGUE`.
        quantize: see :func:`pjd.load`.
    """
    official, sizes = CATALOGUE[name], SIZES[name]
    decoder = sizes.decoder
    pixels = official.rows * official.columns * decoder.reduction**2
    image = official.rows * (official.columns + sizes.row_ends)
    branches = 2 if official.takes_guidance else 1
    return Needs(
        sizes.weights(official.dtype, quantize) / GIB,
        sizes.cache(image, branches, official.dtype) / GIB,
        (4 * decoder.numbers + decoder.per_pixel * pixels) / GIB,
    )


def chameleon(row_ends: bool) -> Sizes:
    """Chameleon 7B."""
    sizes = (32, 4096, 11_008, 32, 32, 65_536, 8192)
    return Sizes(*sizes, CHAMELEON_VQ, row_ends=row_ends)


def janus(layers: int, width: int, feed_forward: int, heads: int) -> Sizes:
    """A Janus-Pro: its codes have a table, an aligner and a head of their own."""
    others = 16_384 * 8 + 8 * width + 2 * width**2
    sizes = (layers, width, feed_forward, heads, heads, 102_400, 16_384)
    return Sizes(*sizes, JANUS_VQ, others=others)


def llamagen(width: int, layers: int, heads: int, captioned: bool = False) -> Sizes:
    """A LlamaGen, on classes or on captions."""
    feed_forward = -(-int(8 * width / 3) // 256) * 256
    prompt, others = 1, 1001.0 * width
    if captioned:
        prompt, others = 120, 2048 * (width + 120) + width**2 + T5_ENCODER
    sizes = (layers, width, feed_forward, heads, heads, 16_384, 16_384)
    return Sizes(*sizes, LLAMAGEN_VQ, prompt, others=others)


def imagegpt(layers: int, width: int) -> Sizes:
    """An ImageGPT: 512 colours, a token that begins an image, and a table of 1024 positions."""
    heads = 16 if layers == 48 else 8
    sizes = (layers, width, 4 * width, heads, heads, 513 + 1024, 512)
    return Sizes(*sizes, NONE, prompt=1, matrices=2)


SIZES = {
    "imagegpt-small": imagegpt(24, 512),
    "imagegpt-medium": imagegpt(36, 1024),
    "imagegpt-large": imagegpt(48, 1536),
    "lumina-mgpt-7b-512": chameleon(row_ends=True),
    "lumina-mgpt-7b-768": chameleon(row_ends=True),
    "lumina-mgpt-7b-1024": chameleon(row_ends=True),
    # As Chameleon 7B, with more tokens: its own configuration we have not seen.
    "lumina-mgpt-2-7b": Sizes(*(32, 4096, 11_008, 32, 32, 171_384, 16_384), MOVQ, row_ends=True),
    "anole-7b": chameleon(row_ends=False),
    "janus-pro-1b": janus(24, 2048, 5632, 16),
    "janus-pro-7b": janus(30, 4096, 11_008, 32),
    "emu3-gen": Sizes(*(32, 4096, 14_336, 32, 8, 184_622, 32_768), EMU3_VQ, row_ends=True),
    "simplear-0.5b": Sizes(*(24, 896, 4864, 14, 2, 215_700, 64_000), COSMOS),
    "simplear-1.5b": Sizes(*(28, 1536, 8960, 12, 2, 215_700, 64_000), COSMOS),
    # The preview's 256 codes come first.
    "glm-image": Sizes(*(40, 4096, 13_696, 32, 2, 168_064, 16_384), NONE, 100 + 256),
    "liquid-7b": Sizes(*(28, 3072, 24_576, 16, 16, 264_200, 8192), CHAMELEON_VQ, head_width=256),
    "llamagen-c2i-b-256": llamagen(768, 12, 12),
    "llamagen-c2i-b-384": llamagen(768, 12, 12),
    "llamagen-c2i-l-256": llamagen(1024, 24, 16),
    "llamagen-c2i-l-384": llamagen(1024, 24, 16),
    "llamagen-c2i-xl-384": llamagen(1280, 36, 20),
    "llamagen-c2i-xxl-384": llamagen(1536, 48, 24),
    "llamagen-c2i-3b-384": llamagen(3200, 24, 32),
    "llamagen-t2i-xl-256": llamagen(1280, 36, 20, captioned=True),
    "llamagen-t2i-xl-512": llamagen(1280, 36, 20, captioned=True),
}
"""By name, as the official configurations have them."""
